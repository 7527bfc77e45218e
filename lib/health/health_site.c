/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The place that a macro noted is fresh until a call has taken it: one without the
 * macro, later, must not pass for the one before.
 */

#include "health/health_site.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static _Thread_local __attribute__((tls_model("initial-exec"))) struct {
    struct pldi_site site;
    int fresh, depth;
} here;

void pld_site(const char *file, int line)
{
    if (here.depth > 0)
        return;
    here.site.file = file;
    here.site.line = line;
    here.fresh = 1;
}

struct pldi_scope pldi_site_enter(const void *address)
{
    if (here.depth++ == 0) {
        if (!here.fresh)
            here.site = (struct pldi_site){NULL, 0, address};
        here.fresh = 0;
    }
    return (struct pldi_scope){here.depth};
}

void pldi_site_leave(struct pldi_scope *scope)
{
    here.depth = scope->depth - 1;
}

struct pldi_site pldi_site_now(void)
{
    return here.site;
}

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash != NULL ? slash + 1 : path;
}

static void address_text(const void *address, char *text, int bytes)
{
    const char *at = address;
    Dl_info info;

    if (address == NULL || dladdr(address, &info) == 0 || info.dli_fname == NULL)
        (void)snprintf(text, (size_t)bytes, "%p", address);
    else if (info.dli_sname != NULL)
        (void)snprintf(text, (size_t)bytes, "%.24s+0x%lx (%s)", last_part(info.dli_fname),
                       (unsigned long)(at - (const char *)info.dli_fbase), info.dli_sname);
    else
        (void)snprintf(text, (size_t)bytes, "%.40s+0x%lx", last_part(info.dli_fname),
                       (unsigned long)(at - (const char *)info.dli_fbase));
}

void pldi_site_text(const struct pldi_site *site, char *text, int bytes)
{
    const char *file = site->file;
    size_t length, room;

    if (file == NULL) {
        address_text(site->address, text, bytes);
        return;
    }
    length = strlen(file);
    room = (size_t)bytes - 13; /* of the line's number */
    if (length > room) {
        const char *slash = strchr(file + (length - room), '/');

        file = slash != NULL ? slash + 1 : file + (length - room);
    }
    (void)snprintf(text, (size_t)bytes, "%s:%d", file, site->line);
}
