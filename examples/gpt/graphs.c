/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Work that is recorded once and replayed: a stage's forward and backward as CUDA graphs.
 *
 * A graph keeps the arguments of what was recorded.  So there is one for each gpt_call, and an
 * unequal call gets its own.  A call's work becomes several graphs where gpt_graphs_cut() says
 * so; between them the gradients that the one before has completed are reported, for whoever
 * is told may put collective operations behind them, which are never part of a graph.
 */

#include "stage.h"

#include <polder/error.h>

#include <stdlib.h>

/* A caller with buffers that are new each time must not fill the memory with graphs. */
enum { MOST_SETS = 256 };

/* One graph, and where the tensors end that it completes. */
struct piece {
    pld_graph *graph;
    int ready_end;
};

/* The graphs of a call. */
struct set {
    struct gpt_call call;
    struct piece *pieces; /* [layers + 1] */
    int *ready;           /* [tensors] in the order of their reports */
    int piece_count, ready_count;
};

struct gpt_graphs {
    struct set *sets[MOST_SETS];
    int count;
    struct set *open; /* what is being recorded */
};

int gpt_graphs_create(struct gpt_stage *s)
{
    if (!s->opts.graphs || s->opts.device == NULL)
        return 0;
    s->graphs = calloc(1, sizeof(*s->graphs));
    return s->graphs != NULL ? 0 : gpt_fail(PLD_ERR_NOMEM, "no memory for the graphs of a stage");
}

static void set_free(struct set *set)
{
    if (set == NULL)
        return;
    for (int i = 0; i < set->piece_count; i++)
        pld_graph_destroy(&set->pieces[i].graph);
    free(set->pieces);
    free(set->ready);
    free(set);
}

void gpt_graphs_destroy(struct gpt_stage *s)
{
    for (int i = 0; s->graphs != NULL && i < s->graphs->count; i++)
        set_free(s->graphs->sets[i]);
    free(s->graphs);
    s->graphs = NULL;
}

static int same(const struct gpt_call *a, const struct gpt_call *b)
{
    return a->slot == b->slot && a->tokens == b->tokens && a->targets == b->targets &&
           a->in == b->in && a->grad_out == b->grad_out && a->out == b->out &&
           a->scale == b->scale && a->backward == b->backward && a->final == b->final;
}

static struct set *find(const struct gpt_graphs *g, const struct gpt_call *call)
{
    for (int i = 0; i < g->count; i++)
        if (same(&g->sets[i]->call, call))
            return g->sets[i];
    return NULL;
}

static struct set *set_new(const struct gpt_stage *s, const struct gpt_call *call)
{
    struct set *set = calloc(1, sizeof(*set));

    if (set == NULL)
        return NULL;
    set->call = *call;
    set->pieces = calloc((size_t)s->layer_count + 1, sizeof(*set->pieces));
    set->ready = calloc((size_t)pld_params_count(s->params) + 1, sizeof(*set->ready));
    if (set->pieces != NULL && set->ready != NULL)
        return set;
    set_free(set);
    return NULL;
}

static int failed(int rc)
{
    return rc == 0 ? 0 : gpt_fail(rc, "%s", pld_last_error());
}

/* A piece, and the reports of what it completes. */
static int launch(struct gpt_stage *s, const struct set *set, int piece)
{
    int rc = failed(pld_graph_launch(set->pieces[piece].graph, s->stream));

    for (int i = piece > 0 ? set->pieces[piece - 1].ready_end : 0;
         i < set->pieces[piece].ready_end && rc == 0; i++)
        rc = gpt_tell_ready(s, set->ready[i]);
    return rc;
}

static int replay(struct gpt_stage *s, const struct set *set)
{
    int rc = 0;

    for (int i = 0; i < set->piece_count && rc == 0; i++)
        rc = launch(s, set, i);
    return rc;
}

static int begin(struct gpt_stage *s, struct set *set)
{
    const int rc = failed(pld_graph_begin(s->opts.device, s->stream));

    if (rc == 0)
        s->graphs->open = set;
    return rc;
}

/* What was recorded becomes a graph, and is done for the first time.  An operation that failed
 * has the better sentence. */
static int end(struct gpt_stage *s)
{
    struct set *set = s->graphs->open;
    pld_graph *graph = NULL;
    const int rc = pld_graph_end(s->opts.device, s->stream, &graph);

    s->graphs->open = NULL;
    if (s->broken != 0 || rc != 0) {
        pld_graph_destroy(&graph);
        return s->broken != 0 ? s->broken : failed(rc);
    }
    set->pieces[set->piece_count] = (struct piece){graph, set->ready_count};
    return launch(s, set, set->piece_count++);
}

int gpt_graphs_cut(struct gpt_stage *s)
{
    struct set *set = s->graphs != NULL ? s->graphs->open : NULL;
    int rc;

    if (set == NULL)
        return 0;
    rc = end(s);
    return rc == 0 ? begin(s, set) : rc;
}

int gpt_graphs_ready(struct gpt_stage *s, int id)
{
    struct set *set = s->graphs != NULL ? s->graphs->open : NULL;

    if (set == NULL)
        return 0;
    set->ready[set->ready_count++] = id;
    return 1;
}

/* Work that failed leaves no recording behind: a stream that records cannot be waited for. */
static int record(struct gpt_stage *s, struct set *set, const struct gpt_call *call,
                  int (*work)(struct gpt_stage *, const struct gpt_call *))
{
    int rc = begin(s, set);

    if (rc != 0)
        return rc;
    rc = work(s, call);
    if (s->graphs->open != NULL) {
        const int ended = end(s);

        rc = rc != 0 ? rc : ended;
    }
    return rc;
}

int gpt_graphs_run(struct gpt_stage *s, const struct gpt_call *call,
                   int (*work)(struct gpt_stage *, const struct gpt_call *))
{
    struct gpt_graphs *g = s->graphs;
    struct set *set;
    int rc;

    if (g == NULL || !s->warm || call->slot == NULL)
        return work(s, call);
    set = find(g, call);
    if (set != NULL)
        return replay(s, set);
    if (g->count == MOST_SETS)
        return work(s, call);
    set = set_new(s, call);
    if (set == NULL)
        return gpt_fail(PLD_ERR_NOMEM, "no memory for a graph");
    rc = record(s, set, call, work);
    if (rc == 0)
        g->sets[g->count++] = set;
    else
        set_free(set);
    return rc;
}
