/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* The file is read back by jansson; a full disk is /dev/full and a file-size limit. */

#include <polder/meter.h>

#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <polder/error.h>

#include "tap.h"

static char dir[] = "/tmp/polder-meter-XXXXXX";
static char file[64];

static pld_meter *open_meter(const char *path, int append)
{
    const pld_meter_opts opts = {PLD_OPTS(pld_meter_opts), .path = path, .append = append};
    pld_meter *meter = NULL;

    ok(pld_meter_open(&opts, &meter) == 0, "open, append=%d", append);
    return meter;
}

static int log_step(pld_meter *meter, int64_t step)
{
    const pld_metric metrics[] = {{.name = "step", .integer = step, .is_integer = 1},
                                  {.name = "loss", .number = 1.0 / (double)(step + 3)}};

    return pld_meter_log(meter, metrics, 2);
}

/* Whole records with the right values that the file holds; -1 if any line is no JSON. */
static int records(void)
{
    FILE *in = fopen(file, "r");
    char line[256];
    int good = 0;

    while (in != NULL && fgets(line, sizeof(line), in) != NULL) {
        json_t *json = json_loads(line, 0, NULL);
        const json_int_t step = json_integer_value(json_object_get(json, "step"));
        const double loss = json_real_value(json_object_get(json, "loss"));

        if (json == NULL)
            good = -100000;
        good += loss == 1.0 / (double)(step + 3);
        json_decref(json);
    }
    if (in != NULL)
        (void)fclose(in);
    return good;
}

static void check_file(void)
{
    pld_meter *meter = open_meter(file, 0);

    for (int64_t step = 0; step < 10; step++) {
        if (log_step(meter, step) != 0)
            ok(0, "log: %s", pld_last_error());
    }
    ok(records() == 10, "each record is in the file at once: %d", records());
    pld_meter_close(&meter);
    ok(meter == NULL, "close sets the handle to NULL");
    pld_meter_close(&meter);
    pld_meter_close(NULL);

    meter = open_meter(file, 1);
    ok(log_step(meter, 10) == 0 && records() == 11, "append keeps what is there: %d", records());
    pld_meter_close(&meter);
    ok(truncate(file, 5) == 0, "a crash leaves half a line");
    meter = open_meter(file, 1);
    ok(log_step(meter, 11) == 0, "log after it");
    pld_meter_close(&meter);
    ok(records() < 0, "the half line is still there");
    meter = open_meter(file, 0);
    ok(log_step(meter, 1) == 0 && records() == 1, "no append: anew, %d", records());
    pld_meter_close(&meter);
}

/* The record after half a line stands on a line of its own. */
static void check_half_line(void)
{
    FILE *in = fopen(file, "w");
    char first[64] = "", second[64] = "";
    pld_meter *meter;

    (void)fputs("{\"step\": 1, \"lo", in);
    (void)fclose(in);
    meter = open_meter(file, 1);
    (void)log_step(meter, 5);
    pld_meter_close(&meter);
    in = fopen(file, "r");
    if (fgets(first, sizeof(first), in) == NULL || fgets(second, sizeof(second), in) == NULL)
        second[0] = '\0';
    (void)fclose(in);
    ok(strcmp(first, "{\"step\": 1, \"lo\n") == 0 &&
           strcmp(second, "{\"step\": 5, \"loss\": 0.125}\n") == 0,
       "after half a line: %.*s", (int)strcspn(second, "\n"), second);
}

/* What was logged survives a kill without close. */
static void check_kill(void)
{
    const pid_t child = fork();
    int status = 0;

    if (child == 0) {
        const pld_meter_opts opts = {PLD_OPTS(pld_meter_opts), .path = file};
        pld_meter *meter = NULL;

        if (pld_meter_open(&opts, &meter) == 0 && log_step(meter, 0) == 0 &&
            log_step(meter, 1) == 0)
            (void)raise(SIGKILL);
        _exit(1);
    }
    (void)waitpid(child, &status, 0);
    ok(WIFSIGNALED(status) && records() == 2, "records of a killed process: %d", records());
}

static void check_full(void)
{
    struct rlimit limit, small;
    struct stat about;
    pld_meter *meter = open_meter("/dev/full", 0);
    int rc = log_step(meter, 0);

    ok(rc == PLD_ERR_IO && strstr(pld_last_error(), "/dev/full") != NULL &&
           strstr(pld_last_error(), "No space left") != NULL,
       "full disk: %s", pld_last_error());
    pld_meter_close(&meter);

    meter = open_meter(file, 0);
    (void)log_step(meter, 1);
    (void)stat(file, &about);
    (void)getrlimit(RLIMIT_FSIZE, &limit);
    small = limit;
    small.rlim_cur = (rlim_t)about.st_size + 7;
    (void)signal(SIGXFSZ, SIG_IGN);
    (void)setrlimit(RLIMIT_FSIZE, &small);
    rc = log_step(meter, 2);
    (void)setrlimit(RLIMIT_FSIZE, &limit);
    ok(rc == PLD_ERR_IO && records() == 1, "room for 7 bytes: the line is taken back: %s",
       pld_last_error());
    ok(log_step(meter, 5) == 0 && records() == 2, "and later ones are whole: %d", records());
    pld_meter_close(&meter);
}

static void check_refusals(void)
{
    pld_meter_opts opts = {PLD_OPTS(pld_meter_opts), .path = "/nowhere/at/all.jsonl"};
    pld_meter *meter = NULL;
    char pipe_path[64];

    ok(pld_meter_open(&opts, NULL) == PLD_ERR_ARG, "null out");
    ok(pld_meter_open(&opts, &meter) == PLD_ERR_IO &&
           strstr(pld_last_error(), "/nowhere/at/all.jsonl") != NULL,
       "no such directory: %s", pld_last_error());
    (void)snprintf(pipe_path, sizeof(pipe_path), "%s/pipe", dir);
    (void)mkfifo(pipe_path, 0600);
    opts.path = pipe_path;
    ok(pld_meter_open(&opts, &meter) == PLD_ERR_IO, "a pipe without a reader does not hang: %s",
       pld_last_error());
    (void)unlink(pipe_path);
    opts.path = NULL;
    opts.min_interval = -1;
    ok(pld_meter_open(&opts, &meter) == PLD_ERR_ARG, "interval -1: %s", pld_last_error());
    opts.min_interval = 0;
    opts.progress_fd = 1000;
    ok(pld_meter_open(&opts, &meter) == PLD_ERR_ARG, "closed descriptor: %s", pld_last_error());
    opts.struct_size = 0;
    ok(pld_meter_open(&opts, &meter) == PLD_ERR_ARG && meter == NULL, "struct_size: %s",
       pld_last_error());
    ok(pld_meter_log(NULL, NULL, 0) == PLD_ERR_ARG, "log without a meter");

    ok(pld_meter_open(NULL, &meter) == 0 && log_step(meter, 0) == 0 &&
           pld_meter_progress(meter, 1, 2, "x") == 0,
       "a meter that goes nowhere accepts everything");
    ok(pld_meter_progress(meter, 3, 2, "") == PLD_ERR_ARG, "3 of 2: %s", pld_last_error());
    ok(pld_meter_progress(meter, 0, 0, "") == PLD_ERR_ARG, "0 of 0: %s", pld_last_error());
    pld_meter_close(&meter);
}

static void check_clock(void)
{
    double last = pld_clock();
    const double first = last;
    int backwards = 0;

    while (last - first < 0.002) {
        const double now = pld_clock();

        backwards += now < last;
        last = now;
    }
    ok(backwards == 0, "the clock went back %d times", backwards);
}

int main(void)
{
    if (mkdtemp(dir) == NULL)
        return 1;
    (void)snprintf(file, sizeof(file), "%s/m.jsonl", dir);
    check_file();
    check_half_line();
    check_kill();
    check_full();
    check_refusals();
    check_clock();
    (void)unlink(file);
    (void)rmdir(dir);
    return tap_done();
}
