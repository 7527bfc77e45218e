/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* The command `polder`: finds the subcommand, and sees to it that output arrives. */

#include "polder.h"

#include <polder/version.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct command *const commands[] = {&command_inspect, &command_trace, &command_bench,
                                                 &command_doctor};
enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

int complain(int status, const char *format, ...)
{
    char text[4096];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    fflush(stdout); /* so that the sentence stands after what was printed before it */
    fprintf(stderr, "polder: %s\n", text); /* at once: other ranks may complain, too */
    return status;
}

static int print_help(void)
{
    puts("usage: polder COMMAND [OPTION]... [ARGUMENT]...\n"
         "\n"
         "Commands:");
    for (size_t i = 0; i < COMMANDS; i++)
        printf("  %-16s %s\n", commands[i]->name, commands[i]->summary);
    puts("  help COMMAND     explain a command\n"
         "\n"
         "Options:\n"
         "  --help           print this text\n"
         "  --version        print the version\n"
         "\n"
         "Exit status: 0 all is well, 1 damaged or not readable, 2 wrong usage.");
    return STATUS_OK;
}

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static int unknown(const char *name)
{
    return complain(STATUS_USAGE, "unknown command \"%s\"; \"polder --help\" lists the commands",
                    name);
}

static int explain(char **argv)
{
    const struct command *command;

    if (argv[0] == NULL)
        return print_help();
    if (argv[1] != NULL)
        return complain(STATUS_USAGE, "help explains one command, and \"%s\" is one too many",
                        argv[1]);
    command = find(argv[0]);
    if (command == NULL)
        return unknown(argv[0]);
    fputs(command->help, stdout);
    return STATUS_OK;
}

static int dispatch(char **argv)
{
    const struct command *command;

    if (argv[0] == NULL)
        return complain(STATUS_USAGE, "no command given; \"polder --help\" lists the commands");
    if (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0)
        return print_help();
    if (strcmp(argv[0], "--version") == 0) {
        printf("polder %s\n", pld_version());
        return STATUS_OK;
    }
    if (strcmp(argv[0], "help") == 0)
        return explain(argv + 1);
    if (argv[0][0] == '-')
        return complain(STATUS_USAGE, "unknown option \"%s\"; \"polder --help\" lists the options",
                        argv[0]);
    command = find(argv[0]);
    return command != NULL ? command->run(argv + 1) : unknown(argv[0]);
}

int main(int argc, char **argv)
{
    int status = dispatch(argc > 0 ? argv + 1 : argv);

    /* A full disk shows only here. */
    errno = 0;
    if (fflush(stdout) != 0 || ferror(stdout))
        status = complain(STATUS_BAD, "cannot write the output: %s",
                          errno != 0 ? strerror(errno) : "an earlier write failed");
    return status;
}
