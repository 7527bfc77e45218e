/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder_doctor.h
 * `polder doctor`: what of a machine and of a job's placement costs speed, or stops it.
 *
 * Every rank tells where it is and what it finds on its host; rank 0 puts it together.
 * Facts come from /sys, /proc and /etc, and a few from libraries ("live").  For tests,
 * environment POLDER_DOCTOR_ROOT names a folder that holds a recorded machine: files
 * under it are read in place of the real ones, environment and live facts from its file
 * `live`; a rank takes the folder rankN in it if there is one.
 */
#ifndef POLDER_DOCTOR_H
#define POLDER_DOCTOR_H

#include <stddef.h>

enum { DOCTOR_CPUS = 1024, DOCTOR_FINDINGS = 32, DOCTOR_NAME = 64, DOCTOR_TEXT = 256 };

enum doctor_severity { DOCTOR_OK, DOCTOR_NOTE, DOCTOR_WARN, DOCTOR_ERROR, DOCTOR_SEVERITIES };

/** One thing that was looked at. */
struct doctor_finding {
    enum doctor_severity severity;
    char check[16];         /**< what it is about, one word */
    char text[DOCTOR_TEXT]; /**< one sentence */
    char fix[DOCTOR_TEXT];  /**< what to type or to write where; "" if there is nothing to do */
};

struct doctor_report {
    int count;
    struct doctor_finding findings[DOCTOR_FINDINGS];
};

/** What only libraries can tell.  "" or -1: unknown. */
struct doctor_live {
    char host[DOCTOR_NAME];
    char mpi[DOCTOR_NAME];
    char threads[16]; /**< MPI's thread level: single, funneled, serialized, multiple */
    char pml[16];     /**< Open MPI's way of sending that was chosen */
    char pml_wanted[DOCTOR_NAME];
    char hdf5[16];
    int hdf5_threadsafe;
    char blas[32]; /**< kernels that OpenBLAS chose */
    char blas_version[16];
};

/** Where a rank is; sent as bytes. */
struct doctor_place {
    int local_rank;
    int cpus; /**< processors it may use */
    unsigned char mask[DOCTOR_CPUS / 8];
    int numa;     /**< -1: on several nodes, or unknown */
    int gpu_numa; /**< likewise */
    int nic_numa;
    int ranks; /**< of the MPI job */
    char host[DOCTOR_NAME];
    char cpu_list[DOCTOR_NAME];
    char numa_list[16];
    char gpu[16]; /**< PCI address, "" if there is none */
    char nic[24]; /**< of the port that is nearest, "" if there is none */
    char nic_state[16];
    char mpi[DOCTOR_NAME];
    char version[16]; /**< of polder */
};

/** Append a finding; `fix` may be "". */
void doctor_find(struct doctor_report *report, enum doctor_severity severity, const char *check,
                 const char *fix, const char *format, ...) __attribute__((format(printf, 5, 6)));

/* polder_doctor_source.c: the machine, or a recorded one. */

/** 0, or -1 if POLDER_DOCTOR_ROOT names no recording. */
int doctor_source_open(int rank);
void doctor_source_close(void);
/** Whether the machine is a recorded one. */
int doctor_recorded(void);
/** Path of a system file; `out` has DOCTOR_TEXT bytes. */
const char *doctor_path(char *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
/** First line of a system file without the end of line, "" if it cannot be read; -1 then. */
int doctor_read(char *out, size_t room, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/** Text behind `key` in the lines of a file; -1 if there is none. */
int doctor_read_key(const char *file, const char *key, char *out, size_t room);
/** As getenv(). */
const char *doctor_env(const char *name);
/** A fact of the recording's file `live`; NULL if it has none. */
const char *doctor_recorded_fact(const char *name);
/** Names in a folder, sorted, at most `most`; their number. */
int doctor_list(const char *folder, char names[][DOCTOR_NAME], int most);

/* polder_doctor_place.c */
void doctor_place_find(struct doctor_place *place);
void doctor_place_job(const struct doctor_place *places, int size, struct doctor_report *report);
/** Processors of a list like "0-3,8" into a mask; their number. */
int doctor_cpus_parse(const char *list, unsigned char mask[DOCTOR_CPUS / 8]);

/* polder_doctor_node.c, polder_doctor_net.c, polder_doctor_soft.c, polder_doctor_dir.c */
void doctor_check_memory(struct doctor_report *report);
void doctor_check_network(const struct doctor_live *live, struct doctor_report *report);
void doctor_check_software(const struct doctor_live *live, struct doctor_report *report);
void doctor_check_launch(const struct doctor_live *live, int ranks, struct doctor_report *report);
void doctor_check_directory(const char *path, int rank, struct doctor_report *report);
/** Number of InfiniBand or RoCE ports that are up. */
int doctor_active_ports(void);
int doctor_count_gpus(void);

/* polder_doctor_live.c */
void doctor_live_find(struct doctor_live *live);

/* polder_doctor_mpi.c, or polder_doctor_nompi.c */
void doctor_mpi_find(struct doctor_live *live);

#endif /* POLDER_DOCTOR_H */
