/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <stdio.h>
#include <string.h>

#include "health/health_site.h"
#include "tap.h"

/* Stands for a public function: what the place of its call is. */
static __attribute__((noinline)) struct pldi_site inner(void)
{
    PLDI_ENTER();

    return pldi_site_now();
}

/* One that calls another for its caller, and notes places of its own on the way. */
static __attribute__((noinline)) struct pldi_site outer(void)
{
    PLDI_ENTER();
    struct pldi_site first;

    pld_site("library.c", 1);
    first = inner();
    pld_site("library.c", 2);
    return strcmp(first.file, "user.c") == 0 ? inner() : first;
}

static const char *text(struct pldi_site site, int bytes)
{
    static char out[256];

    pldi_site_text(&site, out, bytes);
    return out;
}

int main(void)
{
    struct pldi_site site;
    char path[200];

    pld_site("user.c", 7);
    site = inner();
    ok(strcmp(text(site, 64), "user.c:7") == 0, "a noted place: %s", text(site, 64));
    site = inner();
    ok(site.file == NULL && strstr(text(site, 64), "+0x") != NULL, "is good for one call: %s",
       text(site, 64));
    pld_site("user.c", 8);
    site = outer();
    ok(strcmp(text(site, 64), "user.c:8") == 0, "and for all that this one makes: %s",
       text(site, 64));
    site = inner();
    ok(site.file == NULL, "but not for those that come after it");

    memset(path, 'x', sizeof(path));
    memcpy(path, "/a/", 3);
    memcpy(path + sizeof(path) - 30, "/folder/file.c", sizeof("/folder/file.c"));
    pld_site(path, 123456789);
    site = inner();
    ok(strcmp(text(site, 64), "folder/file.c:123456789") == 0, "of a long path, its end: %s",
       text(site, 64));
    return tap_done();
}
