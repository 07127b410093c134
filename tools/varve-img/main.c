/*
 * varve-img: makes, inspects, compares and copies images while nothing else
 * uses them. One file a subcommand; this one finds it.
 */
#include "tools/varve-img/img.h"

#include <stdio.h>
#include <string.h>

static const struct subcommand *const subcommands[] = {
    &cmd_amend,   &cmd_bench,   &cmd_bitmap, &cmd_check,  &cmd_commit,
    &cmd_compare, &cmd_convert, &cmd_create, &cmd_dd,     &cmd_info,
    &cmd_map,     &cmd_measure, &cmd_rebase, &cmd_resize, &cmd_snapshot,
};

int img_help(const struct subcommand *cmd)
{
    printf("usage: %s %s %s\n\n%s\n\n%s", g_get_prgname(), cmd->name,
           cmd->usage, cmd->what, cmd->help);
    printf(
        "\n'--object TYPE,id=ID,...' makes an object that an image needs.\n");
    return 0;
}

static int print_help(void)
{
    const char *program = g_get_prgname();

    printf("usage: %s COMMAND [OPTIONS]\n\n"
           "Makes, inspects, compares and copies disk images that nothing else "
           "uses.\n\ncommands:\n",
           program);
    for (size_t i = 0; i < G_N_ELEMENTS(subcommands); i++) {
        printf("  %-9s %s\n", subcommands[i]->name, subcommands[i]->what);
    }
    printf("\n'%s COMMAND --help' explains one of them, with examples.\n",
           program);
    return 0;
}

int main(int argc, char **argv)
{
    tool_init(argv[0]);
    if (argc < 2) {
        return tool_usage_error("Not enough arguments");
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        return print_help();
    }
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
        printf("%s version 0.1\n", g_get_prgname());
        return 0;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(subcommands); i++) {
        if (strcmp(argv[1], subcommands[i]->name)) {
            continue;
        }
        for (int k = 2; k < argc; k++) {
            if (!strcmp(argv[k], "--help") || !strcmp(argv[k], "-h")) {
                return img_help(subcommands[i]);
            }
        }
        return subcommands[i]->run(argc - 1, argv + 1);
    }
    return tool_usage_error("Command not found: %s", argv[1]);
}
