/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* polder inspect for people: tables that fit into 80 columns as far as the names in them allow. */

#include "polder.h"
#include "polder_inspect.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LINE = 80, INDENT = 2, GAP = 2, TOTAL_NAME = 14 };

static void heading(const char *text)
{
    set_style(STYLE_HEADING);
    printf("\n%s\n", text);
    set_style(STYLE_PLAIN);
}

static int larger(int a, int b)
{
    return a > b ? a : b;
}

/* A sentence, broken at spaces to lines of at most LINE columns. */
static void print_wrapped(const char *sentence, int indent)
{
    char *copy = strdup(sentence), *rest = NULL;
    int column = LINE;

    for (char *word = copy != NULL ? strtok_r(copy, " ", &rest) : NULL; word != NULL;
         word = strtok_r(NULL, " ", &rest)) {
        const int width = text_columns(word);

        if (column + 1 + width > LINE) {
            printf("%s%*s", column == LINE ? "" : "\n", indent, "");
            column = indent;
        } else {
            putchar(' ');
            column++;
        }
        print_clean(word);
        column += width;
    }
    putchar('\n');
    free(copy);
}

static const char *state_of(const struct verdict *verdict)
{
    return !verdict->complete ? "damaged" : verdict->verified ? "verified" : "complete";
}

static void print_state(const struct verdict *verdict)
{
    set_style(verdict->complete ? STYLE_GOOD : STYLE_BAD);
    fputs(state_of(verdict), stdout);
    set_style(STYLE_PLAIN);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash != NULL ? slash + 1 : path;
}

void inspect_run_text(const char *path, const pld_run *run, const struct verdict *verdicts)
{
    const size_t count = pld_run_count(run);
    char size[SIZE_TEXT];

    print_clean(path);
    if (count == 0) {
        puts(": no checkpoints");
        return;
    }
    printf(": %zu checkpoint%s\n", count, count == 1 ? "" : "s");
    heading("        step        size  state     name");
    for (size_t i = 0; i < count; i++) {
        const pld_run_entry *entry = pld_run_at(run, i);

        printf("%12" PRId64 "  %10s  ", entry->step, format_size(entry->bytes, size));
        print_state(&verdicts[i]);
        printf("%*s  ", 8 - (int)strlen(state_of(&verdicts[i])), "");
        print_clean(base_name(entry->path));
        putchar('\n');
        if (!verdicts[i].complete)
            print_wrapped(verdicts[i].problem, 14);
    }
}

static void print_time(int64_t seconds)
{
    const time_t when = (time_t)seconds;
    struct tm utc;
    char text[64];

    if (gmtime_r(&when, &utc) == NULL || strftime(text, sizeof(text), "%F %T UTC", &utc) == 0)
        printf("%" PRId64 " seconds after 1970", seconds);
    else
        fputs(text, stdout);
}

static void print_summary(const pld_snapshot *snapshot, const struct verdict *verdict)
{
    char size[SIZE_TEXT];
    pld_snapshot_info info;
    size_t shards = pld_snapshot_shards(snapshot);

    pld_snapshot_info_get(snapshot, &info);
    fputs("checkpoint  ", stdout);
    print_clean(info.path);
    fputs("\nstate       ", stdout);
    print_state(verdict);
    putchar('\n');
    if (!verdict->complete)
        print_wrapped(verdict->problem, 12);
    printf("step        %" PRId64 "\n", info.step);
    fputs("saved       ", stdout);
    print_time(info.time);
    fputs("\nmesh        ", stdout);
    print_clean(info.mesh);
    printf(", %d rank%s\n", info.ranks, info.ranks == 1 ? "" : "s");
    printf("size        %s in %zu shard%s\n", format_size(info.bytes, size), shards,
           shards == 1 ? "" : "s");
    printf("written by  polder ");
    print_clean(info.version);
    printf(", format %d, codec %s\n", info.format, info.codec);
    printf("uuid        %s\n", info.uuid);
}

/* Entries of one kind.  Nothing is printed if there are none. */
static void print_entries(const pld_snapshot *snapshot, const char *title, const char *kinds)
{
    const size_t count = pld_snapshot_entries(snapshot);
    int width = 0;

    for (size_t i = 0; i < count; i++)
        if (strchr(kinds, pld_snapshot_entry_at(snapshot, i)->kind) != NULL)
            width = larger(width, text_columns(pld_snapshot_entry_at(snapshot, i)->key));
    if (width == 0)
        return;
    heading(title);
    for (size_t i = 0; i < count; i++) {
        const pld_snapshot_entry *e = pld_snapshot_entry_at(snapshot, i);

        if (strchr(kinds, e->kind) == NULL)
            continue;
        printf("%*s", INDENT, "");
        print_padded(e->key, width + GAP);
        if (e->kind == 's')
            printf("%" PRIu64 " byte%s", e->bytes, e->bytes == 1 ? "" : "s");
        else if (e->kind == 'n')
            printf("%.10g", e->number);
        else
            print_clean(e->text);
        putchar('\n');
    }
}

static void print_shards(const pld_snapshot *snapshot)
{
    char size[SIZE_TEXT];
    int width = (int)strlen("host");

    for (size_t i = 0; i < pld_snapshot_shards(snapshot); i++)
        width = larger(width, text_columns(pld_snapshot_shard_at(snapshot, i)->host));
    set_style(STYLE_HEADING);
    printf("\nshards        size  %-*s  file\n", width, "host");
    set_style(STYLE_PLAIN);
    for (size_t i = 0; i < pld_snapshot_shards(snapshot); i++) {
        const pld_snapshot_shard *s = pld_snapshot_shard_at(snapshot, i);

        printf("%6d  %10s  ", s->rank, format_size(s->bytes, size));
        print_padded(s->host, width + GAP);
        print_clean(s->name);
        if (!s->present) {
            set_style(STYLE_BAD);
            fputs("  damaged", stdout);
            set_style(STYLE_PLAIN);
        }
        putchar('\n');
    }
}

/* "1024 x 256"; long enough for PLD_MAX_DIMS numbers of 19 digits. */
enum { SHAPE_TEXT = 192 };

static const char *format_shape(const pld_snapshot_tensor *tensor, char text[SHAPE_TEXT])
{
    int used = 0;

    text[0] = '\0';
    for (int i = 0; i < tensor->ndim && i < PLD_MAX_DIMS; i++)
        used += snprintf(text + used, (size_t)(SHAPE_TEXT - used), "%s%" PRId64, i > 0 ? " x " : "",
                         tensor->shape[i]);
    return text;
}

/* All tensors by name, then by slot: those of one parameter lie beside each other. */
static int compare(const void *a, const void *b)
{
    const pld_snapshot_tensor *const *x = a, *const *y = b;
    const int names = strcmp((*x)->name, (*y)->name);

    return names != 0 ? names : strcmp((*x)->slot, (*y)->slot);
}

struct table {
    const pld_snapshot_tensor **sorted;
    size_t count;
    int name, shape; /* columns */
};

/* The slots of a parameter, whose own value comes first, its slot being "". */
static void print_slots(const struct table *table, const pld_snapshot_tensor *tensor)
{
    const pld_snapshot_tensor **found =
        bsearch(&tensor, table->sorted, table->count, sizeof(*table->sorted), compare);
    const char *gap = "  ";

    for (found++; found < table->sorted + table->count; found++, gap = " ") {
        if (strcmp((*found)->name, tensor->name) != 0)
            break;
        fputs(gap, stdout);
        print_clean((*found)->slot);
    }
}

static void print_tensor(const struct table *table, const pld_snapshot_tensor *tensor)
{
    char size[SIZE_TEXT], shape[SHAPE_TEXT];

    printf("%*s", INDENT, "");
    if (text_columns(tensor->name) > table->name) {
        print_clean(tensor->name);
        printf("\n%*s", INDENT + table->name + GAP, "");
    } else {
        print_padded(tensor->name, table->name + GAP);
    }
    printf("%-5s  %-*s  %10s", pld_dtype_name(tensor->dtype), table->shape,
           format_shape(tensor, shape), format_size(tensor->stored_bytes, size));
    print_slots(table, tensor);
    putchar('\n');
}

/* Columns of the longest list of slots; `table` is sorted. */
static int slots_width(const struct table *table)
{
    int most = (int)strlen("slots"), width = 0;

    for (size_t i = 0; i < table->count; i++) {
        if (i == 0 || strcmp(table->sorted[i]->name, table->sorted[i - 1]->name) != 0)
            width = -1; /* one gap less than there are slots */
        if (table->sorted[i]->slot[0] != '\0')
            width += 1 + text_columns(table->sorted[i]->slot);
        most = larger(most, width);
    }
    return most;
}

/* A name longer than what the other columns leave gets a line of its own. */
static void measure(const pld_snapshot *snapshot, struct table *table)
{
    enum { DTYPE = 5, SIZE = 10 };
    char shape[SHAPE_TEXT];
    int most;

    table->name = (int)strlen("tensors");
    table->shape = (int)strlen("shape");
    for (size_t i = 0; i < table->count; i++) {
        const pld_snapshot_tensor *t = pld_snapshot_tensor_at(snapshot, i);

        table->sorted[i] = t;
        table->name = larger(table->name, text_columns(t->name));
        table->shape = larger(table->shape, (int)strlen(format_shape(t, shape)));
    }
    qsort(table->sorted, table->count, sizeof(*table->sorted), compare);
    most = LINE - INDENT - DTYPE - SIZE - slots_width(table) - 4 * GAP - table->shape;
    if (table->name > most)
        table->name = larger(most, (int)strlen("tensors"));
}

static void print_tensors(const pld_snapshot *snapshot)
{
    struct table table = {.count = pld_snapshot_tensors(snapshot)};

    table.sorted = calloc(table.count + 1, sizeof(*table.sorted));
    if (table.sorted == NULL) {
        (void)complain(STATUS_BAD, "no memory for a table of %zu tensors", table.count);
        return;
    }
    measure(snapshot, &table);
    set_style(STYLE_HEADING);
    printf("\n%-*s  dtype  %-*s      stored  slots\n", INDENT + table.name, "tensors", table.shape,
           "shape");
    set_style(STYLE_PLAIN);
    for (size_t i = 0; i < table.count; i++)
        if (pld_snapshot_tensor_at(snapshot, i)->slot[0] == '\0')
            print_tensor(&table, pld_snapshot_tensor_at(snapshot, i));
    free(table.sorted);
}

static void print_total(const pld_snapshot *snapshot, const char *slot)
{
    char stored_text[SIZE_TEXT], bytes_text[SIZE_TEXT];
    uint64_t bytes = 0, stored = 0;
    size_t tensors = 0;

    for (size_t i = 0; i < pld_snapshot_tensors(snapshot); i++) {
        const pld_snapshot_tensor *t = pld_snapshot_tensor_at(snapshot, i);

        if (strcmp(t->slot, slot) != 0)
            continue;
        tensors++;
        bytes += t->bytes;
        stored += t->stored_bytes;
    }
    printf("%*s", INDENT, "");
    print_padded(slot[0] == '\0' ? "values" : slot, TOTAL_NAME);
    printf("%6zu tensor%s  %10s for %s of data\n", tensors, tensors == 1 ? " " : "s",
           format_size(stored, stored_text), format_size(bytes, bytes_text));
}

/* What the values and each kind of slot take; optimizers have three kinds at most. */
static void print_totals(const pld_snapshot *snapshot)
{
    enum { MOST = 16 };
    const char *slots[MOST];
    size_t kinds = 0;

    heading("on disk");
    for (size_t i = 0; i < pld_snapshot_tensors(snapshot); i++) {
        const char *slot = pld_snapshot_tensor_at(snapshot, i)->slot;
        size_t k = 0;

        while (k < kinds && strcmp(slots[k], slot) != 0)
            k++;
        if (k == kinds && kinds < MOST)
            slots[kinds++] = slot;
    }
    for (size_t k = 0; k < kinds; k++)
        print_total(snapshot, slots[k]);
}

void inspect_snapshot_text(const pld_snapshot *snapshot, const struct verdict *verdict)
{
    print_summary(snapshot, verdict);
    print_entries(snapshot, "numbers and texts", "nt");
    print_entries(snapshot, "state", "s");
    print_shards(snapshot);
    if (pld_snapshot_tensors(snapshot) == 0)
        return;
    print_tensors(snapshot);
    print_totals(snapshot);
}
