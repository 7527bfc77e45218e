/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "schedule_support.h"
#include "tap.h"

/* Lowered: valid, runs without any buffer, computations untouched. */
static int lowers_well(const pld_schedule *s)
{
    static struct lists before, after;
    pld_schedule *lowered = NULL, *twice = NULL;
    char *text = text_of(s), *lowered_text;
    int rank_of[MAX_RANKS * 4];
    int good, messages = 0;

    if (pld_schedule_lower(s, &lowered) < 0) {
        printf("# %s\n", pld_last_error());
        return 0;
    }
    lowered_text = text_of(lowered);
    for (int stage = 0; stage < pld_schedule_stages(s); stage++)
        rank_of[stage] = pld_schedule_rank_of(s, stage);
    split(text, &before);
    split(lowered_text, &after);
    good = pld_schedule_validate(lowered) == 0 &&
           runs_unbuffered(&after, pld_schedule_stages(s), rank_of);
    for (int r = 0; r < after.ranks; r++) {
        int n = 0;

        for (int i = 0; i < after.length[r]; i++) {
            if (strchr(after.action[r][i], '_') != NULL)
                messages++;
            else
                good &= strcmp(after.action[r][i], before.action[r][n++]) == 0;
        }
        good &= n == before.length[r];
    }
    good &= messages == 0 || (pld_schedule_lower(lowered, &twice) == PLD_ERR_ARG && twice == NULL);
    if (!good)
        printf("# %s\n%s%s", pld_last_error(), text, lowered_text);
    pld_schedule_destroy(&lowered);
    free(text);
    free(lowered_text);
    return good;
}

static void test_generated(void)
{
    int cases = 0, good = 0;

    for (int p = 1; p <= 8; p++) {
        for (int m = 1; m <= 16; m++) {
            for (int kind = 0; kind < 2; kind++) {
                pld_schedule *s = generate((pld_schedule_kind)kind, p, m);

                cases++;
                good += lowers_well(s);
                pld_schedule_destroy(&s);
            }
        }
    }
    ok(good == cases, "gpipe and 1f1b lowered run without buffers: %d of %d", good, cases);
}

/* A random valid program: run random computations that are ready, on a random placement. */
static const char *random_program(unsigned *state)
{
    static struct lists lists;
    const int ranks = 1 + (int)roll(state, 5);
    const int stages = ranks + (int)roll(state, 6);
    const int mbs = 1 + (int)roll(state, 6);
    int rank_of[16], forward[16] = {0}, backward[16] = {0};
    static char taken[2][16][8];
    int left = 2 * stages * mbs;

    memset(&lists, 0, sizeof(lists));
    memset(taken, 0, sizeof(taken));
    lists.ranks = ranks;
    for (int s = 0; s < stages; s++)
        rank_of[s] = s < ranks ? s : (int)roll(state, (unsigned)ranks);
    while (left > 0) {
        const int s = (int)roll(state, (unsigned)stages), m = (int)roll(state, (unsigned)mbs);
        const int b = (int)roll(state, 2), r = rank_of[s];
        const int from = b ? s + 1 : s - 1;

        if (taken[b][s][m] || (b && !taken[0][s][m]) ||
            (from >= 0 && from < stages && !taken[b][from][m]))
            continue;
        taken[b][s][m] = 1;
        (b ? backward : forward)[s]++;
        (void)snprintf(lists.action[r][lists.length[r]++], 24, "%d%c%d", s, b ? 'B' : 'F', m);
        left--;
    }
    return join(&lists);
}

static void test_random(void)
{
    unsigned state = 99;
    int cases = 0, good = 0;

    for (; cases < 1000; cases++) {
        pld_schedule *s = NULL;

        good += pld_schedule_parse(random_program(&state), &s) == 0 && lowers_well(s);
        pld_schedule_destroy(&s);
    }
    ok(good == cases, "random programs with several stages per rank: %d of %d", good, cases);
}

/* Lowered elsewhere, by sweeping over the ranks: other order, valid as well. */
static void test_foreign(const char *folder, const char *name)
{
    char file[128];
    char *compute, *comms, *ours;
    pld_schedule *s = NULL, *theirs = NULL;

    (void)snprintf(file, sizeof(file), "pipeline/%s.csv", name);
    compute = golden(folder, file);
    (void)snprintf(file, sizeof(file), "pipeline/%s.comms.csv", name);
    comms = golden(folder, file);
    ok(pld_schedule_parse(compute, &s) == 0 && lowers_well(s), "%s: lowered by us", name);
    ok(pld_schedule_parse(comms, &theirs) == 0, "%s: lowered by others: %s", name,
       theirs == NULL ? pld_last_error() : "accepted");
    ours = text_of(theirs);
    ok(strcmp(ours, comms) == 0, "%s: comes back byte for byte", name);
    pld_schedule_destroy(&s);
    pld_schedule_destroy(&theirs);
    free(compute);
    free(comms);
    free(ours);
}

/* In time order: what is sent earlier stands earlier, at equal times the lower rank first. */
static void test_order(void)
{
    pld_schedule *s = generate(PLD_SCHEDULE_1F1B, 3, 2), *lowered = NULL;
    char *text;

    ok(pld_schedule_lower(s, &lowered) == 0, "lower 1f1b of 3 ranks");
    text = text_of(lowered);
    /* F takes 1, B 2.  At 2 both 0F1 and 1F0 end: rank 1 receives before it sends. */
    ok(strcmp(text, "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1\n"
                    "1RECV_F0,1F0,1RECV_F1,1SEND_F0,1F1,1SEND_F1,1RECV_B0,1B0,1SEND_B0,1RECV_B1,"
                    "1B1,1SEND_B1\n"
                    "2RECV_F0,2F0,2RECV_F1,2B0,2SEND_B0,2F1,2B1,2SEND_B1\n") == 0,
       "by time, then source rank");
    free(text);
    pld_schedule_destroy(&s);
    pld_schedule_destroy(&lowered);
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : "tests/golden";
    static const char *const names[] = {"gpipe_P4_M8",         "1f1b_P4_M8",
                                        "eager1f1b_P4_M8",     "interleaved_v2_P4_M8",
                                        "looped_bfs_v2_P4_M8", "hanayo_w2_P4_M8"};

    test_generated();
    test_random();
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        test_foreign(folder, names[i]);
    test_order();
    return tap_done();
}
