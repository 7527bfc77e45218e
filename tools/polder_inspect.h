/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file polder_inspect.h  What the files of `polder inspect` share. */
#ifndef TOOLS_POLDER_INSPECT_H
#define TOOLS_POLDER_INSPECT_H

#include <polder/inspect.h>

/** What was found out about a checkpoint. */
struct verdict {
    int complete;
    int verified;       /**< every byte was read and is as it was written */
    char problem[1024]; /**< one sentence if not complete, else "" */
};

/** For people.  @param verdicts  [pld_run_count(run)] */
void inspect_run_text(const char *path, const pld_run *run, const struct verdict *verdicts);
void inspect_snapshot_text(const pld_snapshot *snapshot, const struct verdict *verdict);

/** For programs, one JSON object.  @return exit status (memory may run out) */
int inspect_run_json(const pld_run *run, const struct verdict *verdicts, int verify);
int inspect_snapshot_json(const pld_snapshot *snapshot, const struct verdict *verdict, int verify);

#endif /* TOOLS_POLDER_INSPECT_H */
