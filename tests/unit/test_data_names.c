/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <polder/error.h>

#include <string.h>

#include "data/data.h"
#include "data_files.h"
#include "tap.h"

/* `path` (below the directory) stands for the names in `expected`, separated by spaces. */
static void expands(const char *path, const char *expected)
{
    struct pldi_name_list list = {0};
    char got[1024] = "";
    const int rc = pldi_data_expand(&list, in_dir(path));

    for (size_t i = 0; i < list.count; i++) {
        const char *name = list.names[i] + strlen(data_dir) + 1;
        const size_t used = strlen(got);

        (void)snprintf(got + used, sizeof(got) - used, "%s%s", i > 0 ? " " : "", name);
    }
    ok(rc == 0 && strcmp(got, expected) == 0, "%s: '%s'%s", path, got,
       rc == 0 ? "" : pld_last_error());
    pldi_data_free_names(&list);
}

static void refused(const char *path, int code, const char *part)
{
    struct pldi_name_list list = {0};
    const int rc = pldi_data_expand(&list, in_dir(path));

    ok(rc == code && strstr(pld_last_error(), part) != NULL, "%s: %s: %s", path, pld_error_name(rc),
       pld_last_error());
    pldi_data_free_names(&list);
}

static void make_tree(void)
{
    static const char *const dirs[] = {"t",     "t/b",         "t/b/deep", "t/.git",
                                       "empty", "empty/below", "many"};
    static const char *const files[] = {
        "t/B",    "t/a",     "t/b/2",   "t/b/10",      "t/b/deep/x", "t/.hidden", "t/.git/y",
        "t/z[1]", "one.txt", "two.txt", "empty/.only", "z[1]",       "z1"};

    for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++)
        (void)mkdir(in_dir(dirs[i]), 0700);
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
        (void)write_bytes(files[i], "x", 1);
    for (int i = 0; i < 100; i++) {
        char name[16];

        (void)snprintf(name, sizeof(name), "many/%d", i);
        (void)write_bytes(name, "x", 1);
    }
}

static void check_links(void)
{
    (void)mkdir(in_dir("l"), 0700);
    (void)write_bytes("l/file", "x", 1);
    (void)!symlink("file", in_dir("l/link"));
    (void)!symlink("..", in_dir("l/loop"));
    (void)!symlink("l", in_dir("to-l"));
    expands("l", "l/file l/link");
    expands("to-l", "to-l/file to-l/link");
    (void)mkfifo(in_dir("l/pipe"), 0600);
    expands("l", "l/file l/link");
    refused("l/pipe", PLD_ERR_ARG, "neither a file nor a directory");
    (void)!symlink("nowhere", in_dir("l/dangling"));
    refused("l", PLD_ERR_NOTFOUND, "l/dangling'");
}

static void check_permission(void)
{
    (void)chmod(data_dir, 0711);
    (void)chmod(in_dir("t"), 0755);
    (void)chmod(in_dir("t/b"), 0);
    if (geteuid() == 0 && seteuid(65534) != 0) {
        ok(1, "# SKIP root may read everything and cannot become nobody");
    } else {
        refused("t", PLD_ERR_IO, "t/b': Permission denied");
        refused("t/*/*", PLD_ERR_IO, "t/*/*");
        (void)seteuid(getuid());
    }
    (void)chmod(in_dir("t/b"), 0700);
}

int main(void)
{
    struct pldi_name_list list = {0};

    if (!make_data_dir())
        return 1;
    make_tree();
    expands("one.txt", "one.txt");
    expands("t/.hidden", "t/.hidden");
    expands("t", "t/B t/a t/b/10 t/b/2 t/b/deep/x t/z[1]");
    expands("t/", "t/B t/a t/b/10 t/b/2 t/b/deep/x t/z[1]");
    expands("*.txt", "one.txt two.txt");
    expands("t/*", "t/B t/a t/b/10 t/b/2 t/b/deep/x t/z[1]");
    expands("z[1]", "z[1]");
    expands("z[0-9]", "z1");
    refused("none", PLD_ERR_NOTFOUND, "none': No such file");
    refused("*.bin", PLD_ERR_NOTFOUND, "no file matches");
    refused("none/*.bin", PLD_ERR_NOTFOUND, "no file matches");
    refused("one.txt/x", PLD_ERR_NOTFOUND, "one.txt/x");
    refused("empty", PLD_ERR_NOTFOUND, "there is no file in directory");
    check_links();
    check_permission();

    ok(pldi_data_expand(&list, in_dir("many")) == 0 && pldi_data_expand(&list, in_dir("many")) == 0,
       "the same directory twice");
    ok(list.count == 200 && strcmp(list.names[0], list.names[100]) == 0, "is read twice: %zu names",
       list.count);
    pldi_data_free_names(&list);
    remove_data_dir();
    return tap_done();
}
