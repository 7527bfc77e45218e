/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "schedule/schedule.h"
#include "schedule_support.h"
#include "tap.h"

/* A valid pair of lists with two messages in flight, to be damaged one thing at a time. */
#define RANK0 "0F0,0F1,0SEND_F0,0SEND_F1,0RECV_B0,0RECV_B1,0B0,0B1\n"
#define RANK1 "1RECV_F0,1RECV_F1,1F0,1F1,1B0,1B1,1SEND_B0,1SEND_B1\n"

static void test_named_checks(void)
{
    ok(accepted(RANK0 RANK1), "the undamaged lists are valid");
    ok(refused("0F0,0F1,0B0\n", "once: rank 0 has no 0B1", ""), "drop: %s", pld_last_error());
    ok(refused("0F0,0B0,0F0\n", "once: rank 0, action 2 (0F0) repeats rank 0, action 0 (0F0)", ""),
       "duplicate: %s", pld_last_error());
    ok(refused("0F0,0B0,1B0\n1F0\n",
               "placement: rank 1, action 0 (1F0): stage 1 is on another rank",
               "rank 0, action 2 (1B0)"),
       "two ranks: %s", pld_last_error());
    ok(refused("0B0,0F0\n", "progress", "rank 0, action 0 (0B0) waits for 0F0 of rank 0"),
       "order within a rank: %s", pld_last_error());
    ok(accepted("0F0,0F1,0B1,0B0\n1F0,1F1,1B1,1B0\n"),
       "a descending order is none of the validator's business");
    ok(refused("0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n", "progress",
               "rank 0, action 1 (0B0) waits for 1B0 of rank 1; rank 1, action 1 (1F1) waits for "
               "0F1 of rank 0"),
       "cycle: %s", pld_last_error());
    ok(refused(RANK0 "1RECV_F1,1RECV_F0,1F0,1F1,1B0,1B1,1SEND_B0,1SEND_B1\n",
               "fifo: rank 1, action 1 (1RECV_F0)", "0SEND_F1"),
       "swapped receives: %s", pld_last_error());
    ok(refused("0F0,0F1,0SEND_F0,0RECV_B0,0RECV_B1,0B0,0B1\n" RANK1,
               "messages: rank 1, action 1 (1RECV_F1) has no 0SEND_F1 on rank 0", ""),
       "dropped send: %s", pld_last_error());
    ok(refused(RANK0 "1RECV_F0,1F0,1F1,1B0,1B1,1SEND_B0,1SEND_B1\n",
               "messages: rank 0, action 3 (0SEND_F1) has no 1RECV_F1 on rank 1", ""),
       "dropped receive: %s", pld_last_error());
    ok(refused("0F0,0F1,0SEND_F0,0RECV_B0,0RECV_B1,0B0,0B1\n"
               "1RECV_F0,1F0,1F1,1B0,1B1,1SEND_B0,1SEND_B1\n",
               "messages: rank 1, action 2 (1F1) needs what stage 0 computes", "1RECV_F1"),
       "dropped both: %s", pld_last_error());
    ok(refused("0F0,0SEND_F0,0SEND_F1,0F1,0RECV_B0,0RECV_B1,0B0,0B1\n" RANK1,
               "order: rank 0, action 2 (0SEND_F1) comes before its producer", "action 3 (0F1)"),
       "sent too early: %s", pld_last_error());
    ok(refused(RANK0 "1RECV_F0,1F0,1F1,1RECV_F1,1B0,1B1,1SEND_B0,1SEND_B1\n",
               "order: rank 1, action 3 (1RECV_F1) comes after its consumer", "action 2 (1F1)"),
       "received too late: %s", pld_last_error());
    ok(refused("0F0,0B0,0SEND_B0\n", "messages: rank 0, action 2 (0SEND_B0)", "no stage -1"),
       "off the end: %s", pld_last_error());
    ok(refused("0F0,0SEND_F0,1RECV_F0,1F0,1B0,0B0\n", "messages: rank 0, action 1 (0SEND_F0)",
               "same rank"),
       "no message needed: %s", pld_last_error());
    ok(refused("0F0,0F1,0SEND_F0,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1\n"
               "1RECV_F0,1F0,1B0,1SEND_B0,1RECV_F1,1F1,1B1,1SEND_B1\n",
               "rendezvous: nothing can go on: rank 0, action 3 (0SEND_F1) waits for 1RECV_F1 of "
               "rank 1; rank 1, action 3 (1SEND_B0) waits for 0RECV_B0 of rank 0",
               ""),
       "needs a buffer: %s", pld_last_error());
}

/* What text cannot express, on a table made by hand. */
static void test_range(void)
{
    static const pld_action bad[] = {
        {(pld_action_kind)6, 0, 0}, {PLD_ACTION_F, -1, 0}, {PLD_ACTION_F, 1, 0},
        {PLD_ACTION_F, 0, -1},      {PLD_ACTION_F, 0, 1},
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        pld_schedule *s = generate(PLD_SCHEDULE_1F1B, 1, 1);

        s->actions[1] = bad[i];
        ok(pld_schedule_validate(s) == PLD_ERR_ARG &&
               strstr(pld_last_error(), "range: action 1 of rank 0") != NULL,
           "%s", pld_last_error());
        pld_schedule_destroy(&s);
    }
    ok(pld_schedule_validate(NULL) == PLD_ERR_ARG, "NULL");
}

struct tally {
    int cases;
    int good;
    int valid;
};

/* The validator's verdict against that of an execution. */
static void judge(const struct lists *lists, int stages, const int *rank_of, int messages,
                  struct tally *t)
{
    pld_schedule *s = NULL;
    const int valid = pld_schedule_parse(join(lists), &s) == 0;
    const int runs =
        messages ? runs_unbuffered(lists, stages, rank_of) : runs_without_messages(lists, stages);

    t->cases++;
    t->valid += valid;
    t->good += valid == runs;
    if (valid != runs)
        printf("# valid %d, runs %d (%s):\n%s", valid, runs, pld_last_error(), join(lists));
    pld_schedule_destroy(&s);
}

static void swap_all(struct lists *lists, int stages, const int *rank_of, int messages,
                     struct tally *t)
{
    char keep[24];

    for (int r = 0; r < lists->ranks; r++) {
        for (int i = 0; i < lists->length[r]; i++) {
            for (int j = 0; j < i; j++) {
                memcpy(keep, lists->action[r][i], 24);
                memcpy(lists->action[r][i], lists->action[r][j], 24);
                memcpy(lists->action[r][j], keep, 24);
                judge(lists, stages, rank_of, messages, t);
                memcpy(lists->action[r][j], lists->action[r][i], 24);
                memcpy(lists->action[r][i], keep, 24);
            }
        }
    }
}

/* Swap every two actions of every list: what still runs is valid, nothing else is. */
static void test_swaps(const char *what, const pld_schedule *s)
{
    static struct lists lists;
    int rank_of[MAX_RANKS * 4];
    struct tally t = {0};
    char *text = text_of(s);

    for (int stage = 0; stage < pld_schedule_stages(s); stage++)
        rank_of[stage] = pld_schedule_rank_of(s, stage);
    split(text, &lists);
    swap_all(&lists, pld_schedule_stages(s), rank_of, strstr(text, "SEND") != NULL, &t);
    ok(t.good == t.cases && t.valid > 0 && t.valid < t.cases,
       "%s: %d swaps, %d remain valid, verdict as of an execution in %d", what, t.cases, t.valid,
       t.good);
    free(text);
}

/* Take every single action out, put it in twice, and put it into another list. */
static void test_drops(const pld_schedule *s)
{
    static struct lists whole, lists;
    char *text = text_of(s);
    int cases = 0, dropped = 0, doubled = 0, moved = 0;

    split(text, &whole);
    for (int r = 0; r < whole.ranks; r++) {
        for (int i = 0; i < whole.length[r]; i++) {
            const int other = (r + 1) % whole.ranks;
            char *action = whole.action[r][i];

            cases++;
            lists = whole;
            memcpy(lists.action[r][lists.length[r]++], action, 24);
            doubled += refused(join(&lists), "once: ", action);
            lists = whole;
            memmove(lists.action[r][i], lists.action[r][i + 1],
                    24 * (size_t)(lists.length[r] - i - 1));
            lists.length[r]--;
            dropped += refused(join(&lists), strchr(action, '_') ? "messages: " : "once: ", action);
            memcpy(lists.action[other][lists.length[other]++], action, 24);
            moved += refused(join(&lists), "placement: ", "is on another rank");
        }
    }
    ok(dropped == cases, "each of %d actions dropped: named in %d", cases, dropped);
    ok(doubled == cases, "each doubled: named in %d", doubled);
    ok(moved == cases, "each moved to another rank: named in %d", moved);
    free(text);
}

static void test_mutations(void)
{
    pld_schedule *flat = generate(PLD_SCHEDULE_1F1B, 3, 3), *folded = NULL;
    pld_schedule *flat_lowered = NULL, *folded_lowered = NULL;

    (void)pld_schedule_parse("0F0,0F1,3F0,3B0,0F2,3F1,3B1,0B0,3F2,3B2,0B1,0B2\n"
                             "1F0,2F0,1F1,2F1,2B0,1B0,1F2,2F2,2B1,1B1,2B2,1B2\n",
                             &folded);
    (void)pld_schedule_lower(flat, &flat_lowered);
    (void)pld_schedule_lower(folded, &folded_lowered);
    test_swaps("1f1b", flat);
    test_swaps("1f1b with messages", flat_lowered);
    test_swaps("two stages per rank", folded);
    test_swaps("two stages per rank with messages", folded_lowered);
    test_drops(flat);
    test_drops(flat_lowered);
    pld_schedule_destroy(&flat);
    pld_schedule_destroy(&flat_lowered);
    pld_schedule_destroy(&folded);
    pld_schedule_destroy(&folded_lowered);
}

int main(void)
{
    test_named_checks();
    test_range();
    test_mutations();
    return tap_done();
}
