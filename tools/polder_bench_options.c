/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Options of `polder bench`, named as those of nccl-tests. */

#include "polder_bench.h"

#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COLD = 256, HOT, VS, MEMORY, OSU, OVERLAP, EXPLAIN, TUNE, DEVICE };

/* A place for the sentence. */
struct complaint {
    char *text;
    size_t room;
};

static int __attribute__((format(printf, 2, 3)))
refuse(const struct complaint *why, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(why->text, why->room, format, args);
    va_end(args);
    return -1;
}

static int read_bytes(const char *option, const char *text, size_t *out,
                      const struct complaint *why)
{
    static const char units[] = "KMGT";
    const char *unit;
    char *end;
    const double number = strtod(text, &end);
    double value = number;

    if (end != text && *end != '\0' && (unit = strchr(units, *end & ~0x20)) != NULL && *unit != 0) {
        value = number * (double)((size_t)1024 << (unit - units) * 10);
        end += 1 + (end[1] == 'B' || end[1] == 'b');
    }
    if (end == text || *end != '\0' || !(value >= 1 && value < 1e15))
        return refuse(why, "%s %s: a size is a number of bytes, as 8, 64K or 1.5M", option, text);
    *out = (size_t)value;
    return 0;
}

static int read_int(const char *option, const char *text, int least, int *out,
                    const struct complaint *why)
{
    char *end;
    const long value = strtol(text, &end, 10);

    if (end == text || *end != '\0' || value < least || value > INT_MAX / 2)
        return refuse(why, "%s %s: a number from %d is wanted", option, text, least);
    *out = (int)value;
    return 0;
}

struct name {
    const char *name;
    int value;
};

/* Those of polder come from the library; these are nccl-tests'. */
static const struct name other_dtypes[] = {
    {"float", PLD_F32}, {"double", PLD_F64}, {"half", PLD_F16}, {"bfloat16", PLD_BF16},
    {"int64", PLD_I64}, {"int32", PLD_I32},  {"int", PLD_I32},  {"uint32", PLD_U32},
    {"int8", PLD_I8},   {"uint8", PLD_U8},   {"char", PLD_I8},  {NULL, -1}};

static int dtype_of(const char *word)
{
    for (int d = 0; d < BENCH_DTYPES; d++) {
        if (strcmp(word, pld_dtype_name((pld_dtype)d)) == 0)
            return d;
    }
    for (const struct name *n = other_dtypes; n->name != NULL; n++) {
        if (strcmp(word, n->name) == 0)
            return n->value;
    }
    return -1;
}

static int redop_of(const char *word)
{
    for (int i = 0; i < BENCH_REDOPS; i++) {
        if (strcmp(word, bench_redop_name((pld_op)i)) == 0)
            return i;
    }
    return -1;
}

/* "a,b,c" or "all" to a set. */
static int read_set(const char *option, const char *text, int (*value_of)(const char *),
                    unsigned all, const char *known, unsigned *out, const struct complaint *why)
{
    char *copy = strdup(text);
    char *rest = NULL;
    unsigned set = strcmp(text, "all") == 0 ? all : 0;
    int rc = 0;

    if (copy == NULL)
        return refuse(why, "%s: out of memory", option);
    for (char *word = strtok_r(copy, ",", &rest); word != NULL && set != all;
         word = strtok_r(NULL, ",", &rest)) {
        const int value = value_of(word);

        if (value < 0) {
            rc = refuse(why, "%s %s: there is no '%s'; there are %s and all", option, text, word,
                        known);
            break;
        }
        set |= 1U << value;
    }
    free(copy);
    if (rc == 0 && set == 0)
        return refuse(why, "%s: the list is empty; there are %s and all", option, known);
    *out = set;
    return rc;
}

static int read_memory(const char *text, unsigned *out, const struct complaint *why)
{
    if (strcmp(text, "polder") == 0)
        *out = 1U << BENCH_POLDER_MEMORY;
    else if (strcmp(text, "ordinary") == 0)
        *out = 1U << BENCH_ORDINARY_MEMORY;
    else if (strcmp(text, "both") == 0)
        *out = 1U << BENCH_POLDER_MEMORY | 1U << BENCH_ORDINARY_MEMORY;
    else
        return refuse(why, "--memory %s: there are polder, ordinary and both", text);
    return 0;
}

static int read_rival(const char *text, int *out, const struct complaint *why)
{
    if (strcmp(text, "mpi") != 0)
        return refuse(why, "--vs %s: only mpi can be compared with", text);
    if (!bench_mpi_built())
        return refuse(why, "--vs mpi: this polder was built without MPI");
    *out = 1;
    return 0;
}

static int read_device(const char *text, struct bench_options *o, const struct complaint *why)
{
    o->device = text;
    if (strcmp(text, "cpu") != 0 && strcmp(text, "auto") != 0 && strncmp(text, "cuda", 4) != 0)
        return refuse(why, "--device %s: there are cpu, cuda, cuda:PCI-ID and auto", text);
    return 0;
}

static int read_list(int option, const char *value, struct bench_options *o,
                     const struct complaint *why)
{
    switch (option) {
    case 'd':
        return read_set("-d", value, dtype_of, (1U << BENCH_DTYPES) - 1,
                        "f32, f64, f16, bf16, i64, i32, u32, i8, u8 (or float, double, half, "
                        "bfloat16, int64, int32, uint32, int8, uint8)",
                        &o->dtypes, why);
    case 'o':
        return read_set("-o", value, redop_of, (1U << BENCH_REDOPS) - 1, "sum, avg, max, min, prod",
                        &o->redops, why);
    case MEMORY:
        return read_memory(value, &o->memories, why);
    case DEVICE:
        return read_device(value, o, why);
    case VS:
        return read_rival(value, &o->vs_mpi, why);
    case 'J':
        o->json = value;
        return 0;
    case 'r':
    default:
        o->root = BENCH_ALL_ROOTS;
        return strcmp(value, "all") == 0 ? 0 : read_int("-r", value, 0, &o->root, why);
    }
}

static int read_option(int option, const char *value, struct bench_options *o,
                       const struct complaint *why)
{
    switch (option) {
    case 'b':
        return read_bytes("-b", value, &o->first, why);
    case 'e':
        return read_bytes("-e", value, &o->last, why);
    case 'i':
        return read_bytes("-i", value, &o->step, why);
    case 'f':
        return read_bytes("-f", value, &o->factor, why);
    case 'n':
        return read_int("-n", value, 1, &o->iterations, why);
    case 'w':
        return read_int("-w", value, 0, &o->warmup, why);
    case 'c':
        return read_int("-c", value, 0, &o->check, why);
    case 'z':
        return read_int("-z", value, 0, &o->blocking, why);
    case COLD:
    case HOT:
        o->cold = option == COLD;
        return 0;
    case OSU:
        o->osu = 1;
        return 0;
    case OVERLAP:
        o->osu = o->overlap = 1;
        o->blocking = 0;
        return 0;
    case EXPLAIN:
        o->explain = 1;
        return 0;
    case TUNE:
        o->tune = value;
        return 0;
    case 'h':
        o->help = 1;
        return 0;
    default:
        return read_list(option, value, o, why);
    }
}

static int combines(const struct bench_options *o)
{
    for (int i = 0; i < BENCH_DTYPES * BENCH_REDOPS; i++) {
        if (o->dtypes >> i / BENCH_REDOPS & 1U && o->redops >> i % BENCH_REDOPS & 1U &&
            bench_redop_takes((pld_op)(i % BENCH_REDOPS), (pld_dtype)(i / BENCH_REDOPS)))
            return 1;
    }
    return 0;
}

/* What no single option can tell. */
static int check_all(struct bench_options *o, const struct complaint *why)
{
    if (o->op->from == BENCH_NOTHING)
        o->first = o->last = 1;
    if (o->last == 0)
        o->last = o->first > (size_t)64 << 20 ? o->first : (size_t)64 << 20;
    if (o->last < o->first)
        return refuse(why, "-b %zu -e %zu: the first size is larger than the last", o->first,
                      o->last);
    if (o->step == 0 && o->factor < 2)
        return refuse(why, "-f %zu: sizes must grow, by a factor of 2 or more", o->factor);
    if (o->overlap && (o->vs_mpi || o->tune != NULL))
        return refuse(why, "--overlap %s: only polder's calls are overlapped, as they are",
                      o->vs_mpi ? "--vs mpi" : "--tune");
    if (o->device != NULL && strcmp(o->device, "cpu") != 0 && o->vs_mpi)
        return refuse(why, "--device %s --vs mpi: MPI is compared with in host memory", o->device);
    if (o->tune != NULL &&
        (o->op->from == BENCH_NOTHING || o->op->from == BENCH_PREVIOUS || o->op->items))
        return refuse(why, "--tune %s: there is nothing to choose for %s", o->tune, o->op->name);
    if (o->tune != NULL && (o->memories & (o->memories - 1)) != 0)
        return refuse(why, "--tune %s: one memory at a time", o->tune);
    if (o->op->from == BENCH_ALL_RANKS && !combines(o))
        return refuse(why, "-o avg takes f32, f64, f16 and bf16; -d names none of them");
    return 0;
}

static int read_operation(int argc, char **argv, int at, struct bench_options *o,
                          const struct complaint *why)
{
    char known[320] = "";
    size_t n = 0;

    for (int i = 0; bench_op_at(i) != NULL && n < sizeof(known); i++)
        n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s", i == 0 ? "" : ", ",
                              bench_op_at(i)->name);
    if (at >= argc)
        return refuse(why, "which operation? there are %s", known);
    o->op = bench_op_find(argv[at]);
    if (o->op == NULL)
        return refuse(why, "there is no operation '%s'; there are %s", argv[at], known);
    if (at + 1 < argc)
        return refuse(why, "one operation at a time: '%s' is too much", argv[at + 1]);
    return 0;
}

int bench_options_read(int argc, char **argv, struct bench_options *out, char *text, size_t room)
{
    static const struct option names[] = {
        {"minbytes", 1, NULL, 'b'},    {"maxbytes", 1, NULL, 'e'},  {"stepbytes", 1, NULL, 'i'},
        {"stepfactor", 1, NULL, 'f'},  {"iters", 1, NULL, 'n'},     {"warmup_iters", 1, NULL, 'w'},
        {"check", 1, NULL, 'c'},       {"datatype", 1, NULL, 'd'},  {"op", 1, NULL, 'o'},
        {"root", 1, NULL, 'r'},        {"blocking", 1, NULL, 'z'},  {"output_file", 1, NULL, 'J'},
        {"json", 1, NULL, 'J'},        {"cold", 0, NULL, COLD},     {"hot", 0, NULL, HOT},
        {"vs", 1, NULL, VS},           {"memory", 1, NULL, MEMORY}, {"osu", 0, NULL, OSU},
        {"explain", 0, NULL, EXPLAIN}, {"tune", 1, NULL, TUNE},     {"overlap", 0, NULL, OVERLAP},
        {"device", 1, NULL, DEVICE},   {"help", 0, NULL, 'h'},      {NULL, 0, NULL, 0}};
    const struct complaint why = {text, room};
    struct bench_options o = {.first = 8,
                              .factor = 2,
                              .warmup = 5,
                              .check = 1,
                              .blocking = 1,
                              .dtypes = 1U << PLD_F32,
                              .redops = 1U << PLD_SUM,
                              .memories = 1U << BENCH_POLDER_MEMORY};
    int option;

    optind = 1;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":b:e:i:f:n:w:c:d:o:r:z:J:h", names, NULL)) != -1) {
        if (option == '?')
            return optopt > 0 && optopt < 128
                       ? refuse(&why,
                                "there is no option -%c; \"polder help bench\" lists the options",
                                optopt)
                       : refuse(&why,
                                "there is no option %s; \"polder help bench\" lists the options",
                                argv[optind - 1]);
        if (option == ':')
            return refuse(&why, "%s wants a value", argv[optind - 1]);
        if (read_option(option, optarg, &o, &why) < 0)
            return -1;
    }
    if (!o.help && (read_operation(argc, argv, optind, &o, &why) < 0 || check_all(&o, &why) < 0))
        return -1;
    *out = o;
    return 0;
}
