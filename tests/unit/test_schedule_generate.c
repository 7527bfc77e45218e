/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <stdint.h>

#include "schedule_support.h"
#include "tap.h"

static uint64_t fnv1a64(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325u;

    for (; *text != '\0'; text++)
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
    return hash;
}

static void test_golden(const char *folder, pld_schedule_kind kind, const char *name, uint64_t hash)
{
    pld_schedule *s = generate(kind, 4, 8);
    char *text = text_of(s);
    char *expected = golden(folder, name);

    ok(strcmp(text, expected) == 0, "text is byte for byte that of %s", name);
    ok(fnv1a64(text) == hash, "and hashes to %llx", (unsigned long long)hash);
    free(expected);
    free(text);
    pld_schedule_destroy(&s);
}

/* Makespan, bubble and live microbatches against the published closed forms. */
static int matches_closed_forms(pld_schedule_kind kind, int p, int m, double f, double b)
{
    const pld_schedule_costs costs = {PLD_OPTS(pld_schedule_costs), .forward = f, .backward = b};
    const double makespan = (m + p - 1) * (f + b);
    const double bubble = (p - 1) * (f + b);
    pld_schedule_report report;
    pld_schedule *s = generate(kind, p, m);
    int good = pld_schedule_validate(s) == 0 && pld_schedule_simulate(s, &costs, &report) == 0 &&
               report.makespan == makespan && report.bubble == bubble &&
               report.bubble_share == bubble / makespan;

    for (int r = 0; r < p; r++) {
        const int live = kind == PLD_SCHEDULE_GPIPE || p - r > m ? m : p - r;

        good &= pld_schedule_peak_live(s, r) == live && pld_schedule_length(s, r) == 2 * (size_t)m;
        good &= pld_schedule_rank_of(s, r) == r;
        good &= r > 0 || report.peak_live == live;
    }
    good &= pld_schedule_ranks(s) == p && pld_schedule_stages(s) == p &&
            pld_schedule_microbatches(s) == m;
    pld_schedule_destroy(&s);
    return good;
}

static int backwards_ascend(const pld_schedule *s)
{
    for (int r = 0; r < pld_schedule_ranks(s); r++) {
        const pld_action *actions = pld_schedule_actions(s, r);
        int last = -1;

        for (size_t i = 0; i < pld_schedule_length(s, r); i++) {
            if (actions[i].kind != PLD_ACTION_B)
                continue;
            if (actions[i].microbatch != last + 1)
                return 0;
            last++;
        }
    }
    return 1;
}

static void test_closed_forms(pld_schedule_kind kind)
{
    int cases = 0, good = 0, ascend = 0;

    for (int p = 1; p <= 8; p++) {
        for (int m = 1; m <= 16; m++) {
            pld_schedule *s = generate(kind, p, m);

            cases++;
            good += matches_closed_forms(kind, p, m, 1, 2) &&
                    matches_closed_forms(kind, p, m, 3, 2) &&
                    matches_closed_forms(kind, p, m, 1, 1);
            ascend += backwards_ascend(s);
            pld_schedule_destroy(&s);
        }
    }
    ok(good == cases, "%s: makespan, bubble, peaks as in the closed forms: %d of %d cases",
       pld_schedule_kind_name(kind), good, cases);
    ok(ascend == cases, "%s: backwards ascend in %d of %d cases", pld_schedule_kind_name(kind),
       ascend, cases);
}

static int create_fails(int kind, int ranks, int microbatches, int reserved, const char *part)
{
    pld_schedule *s = NULL;
    const int rc = pld_schedule_create(
        &(pld_schedule_opts){PLD_OPTS(pld_schedule_opts), .kind = (pld_schedule_kind)kind,
                             .ranks = ranks, .microbatches = microbatches, .reserved = reserved},
        &s);

    return rc == PLD_ERR_ARG && s == NULL && strstr(pld_last_error(), part) != NULL;
}

static void test_arguments(void)
{
    pld_schedule_kind kind = PLD_SCHEDULE_1F1B;
    pld_schedule *s = NULL;

    ok(create_fails(7, 2, 2, 0, "7"), "unknown kind: %s", pld_last_error());
    ok(create_fails(-1, 2, 2, 0, "-1"), "negative kind: %s", pld_last_error());
    ok(create_fails(0, 0, 2, 0, "ranks is 0"), "no ranks: %s", pld_last_error());
    ok(create_fails(0, 4097, 2, 0, "4097"), "too many ranks: %s", pld_last_error());
    ok(create_fails(0, 2, 0, 0, "microbatches is 0"), "no microbatches: %s", pld_last_error());
    ok(create_fails(0, 2, (1 << 20) + 1, 0, "1048577"), "too many: %s", pld_last_error());
    ok(create_fails(0, 2, 2, 1, "reserved"), "reserved: %s", pld_last_error());
    ok(pld_schedule_create(NULL, &s) == PLD_ERR_ARG, "options are required");
    ok(pld_schedule_kind_find("gpipe", &kind) == 0 && kind == PLD_SCHEDULE_GPIPE, "gpipe found");
    ok(pld_schedule_kind_find("1f1b", &kind) == 0 && kind == PLD_SCHEDULE_1F1B, "1f1b found");
    kind = PLD_SCHEDULE_GPIPE;
    ok(pld_schedule_kind_find("dpipe", &kind) == PLD_ERR_ARG && kind == PLD_SCHEDULE_GPIPE &&
           strstr(pld_last_error(), "1f1b, gpipe") != NULL,
       "unknown name lists the known: %s", pld_last_error());
    ok(strcmp(pld_schedule_kind_name((pld_schedule_kind)9), "?") == 0, "no name for kind 9");
}

static void test_accessors(void)
{
    pld_schedule *s = generate(PLD_SCHEDULE_1F1B, 3, 5);

    ok(pld_schedule_rank_of(s, -1) == -1 && pld_schedule_rank_of(s, 3) == -1, "rank_of in range");
    ok(pld_schedule_length(s, -1) == 0 && pld_schedule_length(s, 3) == 0, "length in range");
    ok(pld_schedule_actions(s, -1) == NULL && pld_schedule_actions(s, 3) == NULL,
       "actions in range");
    ok(pld_schedule_peak_live(s, -1) == -1 && pld_schedule_peak_live(s, 3) == -1,
       "peak_live in range");
    pld_schedule_destroy(&s);
    ok(s == NULL, "destroy sets the handle to NULL");
    pld_schedule_destroy(&s);
    pld_schedule_destroy(NULL);
    ok(1, "destroy accepts NULL");
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : "tests/golden";

    test_golden(folder, PLD_SCHEDULE_GPIPE, "pipeline/gpipe_P4_M8.csv", 0xed6e0c83aea3e7e5u);
    test_golden(folder, PLD_SCHEDULE_1F1B, "pipeline/1f1b_P4_M8.csv", 0x6dbccb0fd2272725u);
    test_closed_forms(PLD_SCHEDULE_GPIPE);
    test_closed_forms(PLD_SCHEDULE_1F1B);
    test_arguments();
    test_accessors();
    return tap_done();
}
