/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "schedule_support.h"
#include "tap.h"

static int same_tables(const pld_schedule *a, const pld_schedule *b)
{
    if (pld_schedule_ranks(a) != pld_schedule_ranks(b) ||
        pld_schedule_stages(a) != pld_schedule_stages(b) ||
        pld_schedule_microbatches(a) != pld_schedule_microbatches(b))
        return 0;
    for (int r = 0; r < pld_schedule_ranks(a); r++) {
        const pld_action *x = pld_schedule_actions(a, r), *y = pld_schedule_actions(b, r);

        if (pld_schedule_length(a, r) != pld_schedule_length(b, r))
            return 0;
        for (size_t i = 0; i < pld_schedule_length(a, r); i++) {
            if (x[i].kind != y[i].kind || x[i].stage != y[i].stage ||
                x[i].microbatch != y[i].microbatch)
                return 0;
        }
    }
    return 1;
}

static int round_trips(const pld_schedule *s)
{
    char *text = text_of(s);
    pld_schedule *again = NULL;
    const int good = pld_schedule_parse(text, &again) == 0 && same_tables(s, again);

    pld_schedule_destroy(&again);
    free(text);
    return good;
}

static void test_round_trip(void)
{
    int cases = 0, good = 0;

    for (int p = 1; p <= 5; p++) {
        for (int m = 1; m <= 7; m++) {
            for (int kind = 0; kind < 2; kind++) {
                pld_schedule *s = generate((pld_schedule_kind)kind, p, m);
                pld_schedule *lowered = NULL;

                cases++;
                good +=
                    round_trips(s) && pld_schedule_lower(s, &lowered) == 0 && round_trips(lowered);
                pld_schedule_destroy(&s);
                pld_schedule_destroy(&lowered);
            }
        }
    }
    ok(good == cases, "format and parse are inverses: %d of %d", good, cases);
}

static void test_bounded_format(void)
{
    pld_schedule *s = generate(PLD_SCHEDULE_1F1B, 2, 2);
    const char *text = "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n";
    char out[64];
    int good = 1;

    for (size_t bytes = 1; bytes < sizeof(out); bytes++) {
        memset(out, '!', sizeof(out));
        good &= pld_schedule_format(s, out, bytes) == strlen(text);
        good &= strlen(out) == (bytes <= strlen(text) ? bytes - 1 : strlen(text));
        good &= strncmp(out, text, strlen(out)) == 0;
        good &= bytes <= strlen(out) + 1 ? out[bytes] == '!' || bytes == sizeof(out) : 1;
    }
    ok(good, "format writes what fits, terminates it and returns the whole length");
    ok(pld_schedule_format(s, NULL, 0) == strlen(text), "NULL asks for the length");
    pld_schedule_destroy(&s);
}

static void test_lenient(void)
{
    ok(accepted("0F0,0B0"), "no newline at the end");
    ok(accepted("0F0,0B0\r\n"), "CR LF");
    ok(accepted("\n\n# a comment, 9X9\n  \n 0F0 ,\t0B0 \n\n"), "blanks, comments, spaces");
    ok(accepted("0F0,,,0B0,\n,1F0,1B0,\n"), "empty cells are idle steps");
    ok(accepted("00F00,0B0\n"), "leading zeros");
}

static void test_refused(void)
{
    ok(refused("", "the text", "no action"), "empty: %s", pld_last_error());
    ok(refused("# x\n\n", "the text", "no action"), "comments alone: %s", pld_last_error());
    ok(refused(",,\n", "line 1", "rank 0 has no action"), "no action: %s", pld_last_error());
    ok(refused("0F0,0B0\n\n,\n", "line 3", "rank 1"), "no action: %s", pld_last_error());
    ok(refused("hello\n", "line 1, action 1", "\"hello\""), "garbage: %s", pld_last_error());
    ok(refused("0F0\n1F0,x\n", "line 2, action 2", "\"x\""), "garbage: %s", pld_last_error());
    ok(refused("0F0,0I0\n", "line 1, action 2", "\"0I0\""), "other kind: %s", pld_last_error());
    ok(refused("0f0\n", "line 1", "0f0"), "lower case: %s", pld_last_error());
    ok(refused("0F\n", "line 1", "microbatch"), "no microbatch: %s", pld_last_error());
    ok(refused("F0\n", "line 1", "stage"), "no stage: %s", pld_last_error());
    ok(refused("0F0 0B0\n", "line 1", "commas"), "no comma: %s", pld_last_error());
    ok(refused("-1F0\n", "line 1", "stage"), "negative: %s", pld_last_error());
    ok(refused("4096F0\n", "line 1", "4095"), "stage too large: %s", pld_last_error());
    ok(refused("0F1048576\n", "line 1", "1048575"), "microbatch too large: %s", pld_last_error());
    ok(refused("99999999999999999999F0\n", "line 1", "4095"), "huge: %s", pld_last_error());
    ok(refused("0F99999999999999999999\n", "line 1", "1048575"), "huge: %s", pld_last_error());
    ok(refused("0\x01\xff\n", "line 1", "\"0??\""), "unprintable: %s", pld_last_error());
    ok(refused("0F0,0B0\n2F0,2B0\n", "placement", "stage 1"), "gap: %s", pld_last_error());
    ok(refused("0F1,0B1\n", "once", "0F0"), "microbatch gap: %s", pld_last_error());
    ok(refused("4095F1048575\n", "placement", "stage 0"), "sparse: %s", pld_last_error());
    ok(refused("0F1048575,0B0\n", "once", "0F0"), "sparse: %s", pld_last_error());
    ok(refused("(0F0;0B1)OVERLAP_F_B\n", "line 1", "stage"), "fused: %s", pld_last_error());
}

static void test_too_many_ranks(void)
{
    char *text = calloc(4097, 5);

    for (int r = 0; text != NULL && r < 4097; r++)
        memcpy(text + 4 * (size_t)r, "0F0\n", 4);
    ok(refused(text, "line 4097", "4096 ranks"), "4097 lines: %s", pld_last_error());
    free(text);
}

/* Damaged and random texts: any verdict will do, but what is accepted must come back. */
static void test_fuzz(void)
{
    static const char alphabet[] = "0123456789FBSENDRCV_,\n\r #x\xff";
    pld_schedule *s = generate(PLD_SCHEDULE_1F1B, 3, 4), *lowered = NULL;
    char *clean, text[1024];
    unsigned state = 20240607;
    int survived = 0, kept = 1;

    (void)pld_schedule_lower(s, &lowered);
    clean = text_of(lowered);
    for (int round = 0; round < 20000; round++) {
        const unsigned edits = roll(&state, 6);
        size_t length = strlen(clean);
        pld_schedule *again = NULL;

        memcpy(text, clean, length + 1);
        if (round % 4 == 0) {
            length = roll(&state, 40);
            for (size_t i = 0; i < length; i++)
                text[i] = alphabet[roll(&state, sizeof(alphabet) - 1)];
            text[length] = '\0';
        }
        for (unsigned e = 0; e < edits && length > 0; e++)
            text[roll(&state, (unsigned)length)] = alphabet[roll(&state, sizeof(alphabet) - 1)];
        if (pld_schedule_parse(text, &again) == 0) {
            survived++;
            kept &= round_trips(again) && pld_schedule_validate(again) == 0;
        }
        pld_schedule_destroy(&again);
    }
    ok(survived > 100 && survived < 15000 && kept, "20000 damaged texts, %d still valid", survived);
    free(clean);
    pld_schedule_destroy(&s);
    pld_schedule_destroy(&lowered);
}

int main(void)
{
    pld_schedule *s = NULL;

    test_round_trip();
    test_bounded_format();
    test_lenient();
    test_refused();
    test_too_many_ranks();
    test_fuzz();
    ok(pld_schedule_parse(NULL, &s) == PLD_ERR_ARG, "text is required");
    return tap_done();
}
