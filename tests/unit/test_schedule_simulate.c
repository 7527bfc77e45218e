/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <math.h>

#include "schedule_support.h"
#include "tap.h"

static double makespan(const pld_schedule *s, double f, double b, double c)
{
    pld_schedule_report report = {0};

    if (pld_schedule_simulate(s,
                              &(pld_schedule_costs){PLD_OPTS(pld_schedule_costs), .forward = f,
                                                    .backward = b, .message = c},
                              &report) < 0)
        printf("# %s\n", pld_last_error());
    return report.makespan;
}

/* With messages of time c; compute-only and lowered must be timed alike. */
static void test_message_time(pld_schedule_kind kind)
{
    int cases = 0, good = 0;

    for (int p = 2; p <= 8; p++) {
        for (int k = 1; k <= 3; k++) {
            const int m = k * p;
            const double f = 10, b = 20, c = 2;
            const double extra =
                kind == PLD_SCHEDULE_GPIPE ? 2.0 * (p - 1) : 2.0 * (p - 1) * k + 2.0 * (p - 2);
            const double expected = (m + p - 1) * (f + b) + c * extra;
            pld_schedule *s = generate(kind, p, m);
            pld_schedule *lowered = NULL;

            cases++;
            good += pld_schedule_lower(s, &lowered) == 0 && makespan(s, f, b, c) == expected &&
                    makespan(lowered, f, b, c) == expected;
            pld_schedule_destroy(&s);
            pld_schedule_destroy(&lowered);
        }
    }
    ok(good == cases, "%s: makespan with messages as in the closed form: %d of %d cases",
       pld_schedule_kind_name(kind), good, cases);
}

/* Figures of schedules with several stages per rank, from an independent simulator. */
static void test_foreign(const char *folder, const char *name, int stages_per_rank, double unit,
                         double with_messages, const double peaks[4])
{
    const double v = stages_per_rank;
    char *text = golden(folder, name);
    pld_schedule *s = NULL;
    int good;

    ok(pld_schedule_parse(text, &s) == 0 && pld_schedule_stages(s) == 4 * stages_per_rank,
       "%s is read: %s", name, s == NULL ? pld_last_error() : "ok");
    ok(fabs(makespan(s, 1 / v, 2 / v, 0) - unit) < 1e-9, "makespan %g", unit);
    ok(fabs(makespan(s, 10 / v, 20 / v, 2) - with_messages) < 1e-9, "with messages %g",
       with_messages);
    good = 1;
    for (int r = 0; r < 4; r++)
        good &= pld_schedule_peak_live(s, r) == (int)lround(peaks[r] * v);
    ok(good, "peaks %g %g %g %g", peaks[0], peaks[1], peaks[2], peaks[3]);
    pld_schedule_destroy(&s);
    free(text);
}

static void test_late_send(void)
{
    pld_schedule *early = NULL, *late = NULL;

    ok(pld_schedule_parse("0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1\n"
                          "1RECV_F0,1F0,1RECV_F1,1B0,1SEND_B0,1F1,1B1,1SEND_B1\n",
                          &early) == 0 &&
           pld_schedule_parse("0F0,0F1,0SEND_F0,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1\n"
                              "1RECV_F0,1F0,1RECV_F1,1B0,1SEND_B0,1F1,1B1,1SEND_B1\n",
                              &late) == 0,
       "a SEND may come later than its producer");
    /* Rank 1 has F0 B0 F1 B1 to do, then rank 0 does B1: 3 + 3 + 2 after the first message. */
    ok(makespan(early, 1, 2, 0.5) == 1 + 0.5 + 6 + 0.5 + 2, "early: %g", makespan(early, 1, 2, .5));
    ok(makespan(late, 1, 2, 0.5) == 2 + 0.5 + 6 + 0.5 + 2, "late: one F later");
    pld_schedule_destroy(&early);
    pld_schedule_destroy(&late);
}

static int costs_fail(double f, double b, double c)
{
    pld_schedule *s = generate(PLD_SCHEDULE_1F1B, 2, 2);
    pld_schedule_report report = {.makespan = -7};
    const int rc = pld_schedule_simulate(
        s, &(pld_schedule_costs){PLD_OPTS(pld_schedule_costs), f, b, c}, &report);

    pld_schedule_destroy(&s);
    return rc == PLD_ERR_ARG && report.makespan == -7;
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : "tests/golden";

    test_message_time(PLD_SCHEDULE_GPIPE);
    test_message_time(PLD_SCHEDULE_1F1B);
    test_foreign(folder, "pipeline/gpipe_P4_M8.csv", 1, 33, 342, (double[]){8, 8, 8, 8});
    test_foreign(folder, "pipeline/1f1b_P4_M8.csv", 1, 33, 362, (double[]){4, 3, 2, 1});
    test_foreign(folder, "pipeline/eager1f1b_P4_M8.csv", 1, 33, 342, (double[]){7, 5, 3, 1});
    test_foreign(folder, "pipeline/interleaved_v2_P4_M8.csv", 2, 28.5, 313,
                 (double[]){5.5, 4.5, 3.5, 2.5});
    test_foreign(folder, "pipeline/looped_bfs_v2_P4_M8.csv", 2, 28.5, 297, (double[]){8, 8, 8, 8});
    test_foreign(folder, "pipeline/hanayo_w2_P4_M8.csv", 4, 28.5, 385,
                 (double[]){3.25, 3.5, 3.75, 4});
    test_late_send();
    ok(costs_fail(0, 1, 0), "forward 0: %s", pld_last_error());
    ok(costs_fail(1, -1, 0), "backward -1: %s", pld_last_error());
    ok(costs_fail(1, 1, -1), "message -1: %s", pld_last_error());
    ok(costs_fail(NAN, 1, 0) && costs_fail(1, INFINITY, 0), "not finite: %s", pld_last_error());
    return tap_done();
}
