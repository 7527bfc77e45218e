/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* `polder doctor`: asks all ranks, puts the answers together, and prints them. */

#include "polder_doctor.h"
#include "polder.h"
#include "polder_launch.h"

#include <polder/polder.h>

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: [mpirun -np N] polder doctor [OPTION]...\n"
    "\n"
    "Looks at a machine and at a job's placement: processors, NUMA, GPUs and ports of each\n"
    "rank; limits, shared memory, InfiniBand, GPUDirect, MPI, HDF5, BLAS.  Start it as the job\n"
    "will be started.  Each finding comes with the line to fix it; nothing is changed.\n"
    "\n"
    "  --dir DIRECTORY   also try it as a place for checkpoints: write, flush, rename\n"
    "  --json            print JSON\n"
    "\n"
    "Exit status: 0 no warnings, 1 warnings, 2 errors or wrong usage.\n";

static const char *const severities[DOCTOR_SEVERITIES] = {"ok", "note", "warn", "error"};

struct options {
    const char *directory;
    int json, help;
};

/* What all ranks found; on all ranks. */
struct job {
    int rank, size;
    struct doctor_place *places;
    struct doctor_report *reports;
    struct doctor_report own; /* about the job as a whole */
};

void doctor_find(struct doctor_report *report, enum doctor_severity severity, const char *check,
                 const char *fix, const char *format, ...)
{
    struct doctor_finding *f;
    va_list args;

    if (report->count == DOCTOR_FINDINGS) {
        f = &report->findings[DOCTOR_FINDINGS - 1];
        f->severity = severity > f->severity ? severity : f->severity;
        (void)snprintf(f->check, sizeof(f->check), "more");
        (void)snprintf(f->text, sizeof(f->text), "There are further findings like these.");
        f->fix[0] = '\0';
        return;
    }
    f = &report->findings[report->count++];
    memset(f, 0, sizeof(*f));
    f->severity = severity;
    (void)snprintf(f->check, sizeof(f->check), "%s", check);
    (void)snprintf(f->fix, sizeof(f->fix), "%s", fix);
    va_start(args, format);
    (void)vsnprintf(f->text, sizeof(f->text), format, args);
    va_end(args);
}

static int read_options(char **argv, struct options *o)
{
    for (; *argv != NULL; argv++) {
        if (strcmp(*argv, "--json") == 0)
            o->json = 1;
        else if (strcmp(*argv, "--help") == 0 || strcmp(*argv, "-h") == 0)
            o->help = 1;
        else if (strncmp(*argv, "--dir=", 6) == 0)
            o->directory = *argv + 6;
        else if (strcmp(*argv, "--dir") == 0 && argv[1] != NULL)
            o->directory = *++argv;
        else if (strcmp(*argv, "--dir") == 0)
            return complain_once(STATUS_USAGE, "doctor: --dir wants a directory");
        else
            return complain_once(
                STATUS_USAGE,
                "doctor: there is no option %s; \"polder help doctor\" lists the options", *argv);
    }
    return STATUS_OK;
}

static void look(const struct options *o, int local_rank, int rank, int size,
                 struct doctor_place *place, struct doctor_report *report)
{
    static struct doctor_live live;

    doctor_live_find(&live);
    memset(place, 0, sizeof(*place));
    place->ranks = size;
    place->local_rank = local_rank;
    (void)snprintf(place->host, sizeof(place->host), "%s", live.host);
    (void)snprintf(place->mpi, sizeof(place->mpi), "%s", live.mpi);
    (void)snprintf(place->version, sizeof(place->version), "%.15s", pld_version());
    doctor_place_find(place);
    memset(report, 0, sizeof(*report));
    doctor_check_launch(&live, size, report);
    doctor_check_software(&live, report);
    doctor_check_network(&live, report);
    doctor_check_memory(report);
    if (o->directory != NULL)
        doctor_check_directory(o->directory, rank, report);
}

static int exchange(struct job *job, pld_runtime *rt)
{
    pld_group *world = pld_runtime_world(rt);
    int rc = pld_allgather(world, &job->places[job->rank], job->places, sizeof(*job->places),
                           PLD_U8, NULL);

    if (rc == 0)
        rc = pld_allgather(world, &job->reports[job->rank], job->reports, sizeof(*job->reports),
                           PLD_U8, NULL);
    return rc;
}

static int equal(const struct doctor_finding *a, const struct doctor_finding *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

static int has(const struct doctor_report *report, const struct doctor_finding *f)
{
    for (int i = 0; i < report->count; i++) {
        if (equal(&report->findings[i], f))
            return 1;
    }
    return 0;
}

/* Hosts on which a finding was made, "" if on all: "host a, b and 3 more". */
static void name_hosts(const struct job *job, const struct doctor_finding *f, char *out,
                       size_t room)
{
    const char *last = NULL;
    int without = 0;
    int hosts = 0;
    size_t n = 0;

    out[0] = '\0';
    for (int r = 0; r < job->size; r++) {
        if (!has(&job->reports[r], f)) {
            without++;
            continue;
        }
        if (last != NULL && strcmp(last, job->places[r].host) == 0)
            continue;
        last = job->places[r].host;
        if (hosts++ < 3 && n < room)
            n += (size_t)snprintf(out + n, room - n, "%s%s", hosts > 1 ? ", " : "", last);
    }
    if (hosts > 3 && n < room)
        (void)snprintf(out + n, room - n, " and %d more", hosts - 3);
    if (without == 0)
        out[0] = '\0';
}

/* Whether rank `r` is the first that made its finding `i`. */
static int is_first(const struct job *job, int r, int i)
{
    const struct doctor_finding *f = &job->reports[r].findings[i];

    for (int k = 0; k < i; k++) {
        if (equal(&job->reports[r].findings[k], f))
            return 0;
    }
    for (int before = 0; before < r; before++) {
        if (has(&job->reports[before], f))
            return 0;
    }
    return 1;
}

typedef void (*visitor)(void *to, const struct doctor_finding *f, const char *hosts);

/* Every finding once: of the job, then of the hosts; worst first. */
static void visit(const struct job *job, visitor each, void *to)
{
    char hosts[DOCTOR_TEXT];

    for (int severity = DOCTOR_ERROR; severity >= DOCTOR_OK; severity--) {
        for (int i = 0; i < job->own.count; i++) {
            if (job->own.findings[i].severity == (enum doctor_severity)severity)
                each(to, &job->own.findings[i], "");
        }
        for (int n = 0; n < job->size * DOCTOR_FINDINGS; n++) {
            const struct doctor_report *report = &job->reports[n / DOCTOR_FINDINGS];
            const struct doctor_finding *f = &report->findings[n % DOCTOR_FINDINGS];

            if (n % DOCTOR_FINDINGS >= report->count ||
                f->severity != (enum doctor_severity)severity ||
                !is_first(job, n / DOCTOR_FINDINGS, n % DOCTOR_FINDINGS))
                continue;
            name_hosts(job, f, hosts, sizeof(hosts));
            each(to, f, hosts);
        }
    }
}

static void print_finding(void *to, const struct doctor_finding *f, const char *hosts)
{
    (void)to;
    set_style(f->severity >= DOCTOR_WARN ? STYLE_BAD
              : f->severity == DOCTOR_OK ? STYLE_GOOD
                                         : STYLE_HEADING);
    (void)printf("%-5s", severities[f->severity]);
    set_style(STYLE_PLAIN);
    (void)printf(" %s: ", f->check);
    print_clean(f->text);
    if (hosts[0] != '\0')
        (void)printf(" [%s]", hosts);
    (void)printf("\n");
    if (f->fix[0] != '\0')
        (void)printf("      fix: %s\n", f->fix);
}

static void count_finding(void *to, const struct doctor_finding *f, const char *hosts)
{
    (void)hosts;
    ((int *)to)[f->severity]++;
}

static const char *or_dash(const char *text)
{
    return text[0] != '\0' ? text : "-";
}

static void print_text(const struct job *job, const int *counts)
{
    (void)printf("polder %s, %d rank%s\n\n%5s  %-20s  %-16s  %-6s  %-12s  %s\n", pld_version(),
                 job->size, job->size == 1 ? "" : "s", "rank", "host", "processors", "NUMA", "GPU",
                 "port");
    for (int r = 0; r < job->size; r++) {
        const struct doctor_place *p = &job->places[r];

        (void)printf("%5d  %-20s  %-16s  %-6s  %-12s  %s%s%s\n", r, p->host, or_dash(p->cpu_list),
                     or_dash(p->numa_list), or_dash(p->gpu), or_dash(p->nic),
                     p->nic[0] != '\0' ? " " : "", p->nic_state);
    }
    (void)printf("\n");
    visit(job, print_finding, NULL);
    (void)printf("\nerrors: %d, warnings: %d, notes: %d\n", counts[DOCTOR_ERROR],
                 counts[DOCTOR_WARN], counts[DOCTOR_NOTE]);
}

static void add_finding(void *to, const struct doctor_finding *f, const char *hosts)
{
    (void)json_array_append_new(to, json_pack("{s:s, s:s, s:s, s:s, s:s}", "severity",
                                              severities[f->severity], "check", f->check, "text",
                                              f->text, "fix", f->fix, "hosts", hosts));
}

static int print_json(const struct job *job, int status)
{
    json_t *placement = json_array();
    json_t *findings = json_array();
    json_t *all;
    int rc;

    for (int r = 0; r < job->size; r++) {
        const struct doctor_place *p = &job->places[r];

        (void)json_array_append_new(placement,
                                    json_pack("{s:i, s:s, s:s, s:i, s:s, s:s, s:s, s:s}", "rank", r,
                                              "host", p->host, "processors", p->cpu_list, "count",
                                              p->cpus, "numa", p->numa_list, "gpu", p->gpu, "port",
                                              p->nic, "port_state", p->nic_state));
    }
    visit(job, add_finding, findings);
    all = json_pack("{s:s, s:i, s:i, s:o, s:o}", "version", pld_version(), "ranks", job->size,
                    "status", status, "placement", placement, "findings", findings);
    rc = all == NULL ? -1 : json_dumpf(all, stdout, JSON_INDENT(1));
    json_decref(all);
    if (rc < 0)
        return complain(STATUS_BAD, "doctor: out of memory");
    (void)printf("\n");
    return status;
}

/* The verdict is the same on all ranks, for all know everything. */
static int conclude(struct job *job, const struct options *o)
{
    int counts[DOCTOR_SEVERITIES] = {0};
    int status;

    doctor_place_job(job->places, job->size, &job->own);
    visit(job, count_finding, counts);
    status = counts[DOCTOR_ERROR] > 0 ? 2 : counts[DOCTOR_WARN] > 0 ? 1 : 0;
    if (job->rank != 0)
        return status;
    if (o->json)
        return print_json(job, status);
    print_text(job, counts);
    return status;
}

static int examine(const struct options *o, pld_runtime *rt)
{
    struct job job = {.rank = pld_runtime_rank(rt), .size = pld_runtime_size(rt)};
    int status = 2;
    int rc = doctor_source_open(job.rank);

    if (rc < 0)
        (void)complain(status, "doctor: POLDER_DOCTOR_ROOT names no recorded machine");
    job.places = calloc((size_t)job.size, sizeof(*job.places));
    job.reports = calloc((size_t)job.size, sizeof(*job.reports));
    if (rc == 0)
        rc = job.places == NULL || job.reports == NULL ? PLD_ERR_NOMEM : 0;
    rc = pld_agree(pld_runtime_world(rt), rc < 0 ? PLD_ERR_NOMEM : 0);
    if (rc == 0) {
        look(o, pld_runtime_local_rank(rt), job.rank, job.size, &job.places[job.rank],
             &job.reports[job.rank]);
        rc = exchange(&job, rt);
    }
    if (rc == 0)
        status = conclude(&job, o);
    else if (job.rank == 0)
        (void)complain(status, "doctor: %s", pld_last_error());
    free(job.places);
    free(job.reports);
    return status;
}

static int run_doctor(char **argv)
{
    struct options o = {0};
    pld_runtime *rt = NULL;
    int status = read_options(argv, &o);

    if (status != STATUS_OK)
        return status;
    if (o.help)
        return launched_rank() == 0 && fputs(help, stdout) == EOF ? STATUS_BAD : STATUS_OK;
    if (join_job(NULL, &rt) < 0)
        return complain(2, "doctor: cannot join the job: %s", pld_last_error());
    status = examine(&o, rt);
    (void)fflush(stdout); /* a launcher may end the job as soon as one rank has a status */
    (void)pld_runtime_close(&rt);
    return status;
}

const struct command command_doctor = {"doctor", "find out what keeps a machine or a job back",
                                       help, run_doctor};
