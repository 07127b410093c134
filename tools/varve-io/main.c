/*
 * varve-io: issues single reads, writes, flushes and discards to an image, from
 * -c arguments or a prompt.
 *
 * One coroutine on one loop opens the file and runs the commands one by one
 * (block/io_command/); commands that only this program has are in files.c.
 */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "aio/file_io.h"
#include "tools/common/tool.h"
#include "tools/varve-io/io.h"
#include "util/error.h"

struct program {
    struct image_open how; /* filename NULL: none yet */
    GPtrArray *commands;   /* of -c; empty: prompt */
    bool misalign;
};

/* ---- options ---- */

struct io_option {
    const char *name;
    char letter; /* 0: none */
    const char *argument, *help;
};

static const struct io_option options[] = {
    {"cmd", 'c', "COMMAND", "run this; may be given more than once"},
    {"format", 'f', "FMT", "format of the image; found out if not given"},
    {"read-only", 'r', NULL, "open the image for reading"},
    {"nocache", 'n', NULL, "go past the host's page cache, as -t none"},
    {"cache", 't', "MODE",
     "none, writeback, writethrough, directsync or unsafe"},
    {"discard", 'd', "MODE", "ignore or unmap (the default)"},
    {"aio", 'i', "MODE", "threads, native or io_uring"},
    {"native-aio", 'k', NULL, "as --aio=native"},
    {"misalign", 'm', NULL, "use memory that is not aligned"},
    {"force-share", 'U', NULL, "read an image that another process writes to"},
    {"image-opts", 0, NULL, "FILE is a list of options, not a name"},
    {"snapshot", 's', NULL, NULL},
    {"copy-on-read", 'C', NULL, NULL},
    {"object", 0, "TYPE,...", NULL},
    {"trace", 'T', "PATTERN", NULL},
    {"help", 'h', NULL, "show this"},
    {"version", 'V', NULL, "show the version"},
};

enum {
    N_OPTIONS = G_N_ELEMENTS(options),
    BY_NAME = 256, /* what getopt_long() returns for options without letter */
};

static void print_option(const struct io_option *o)
{
    char left[40], letter[8] = "    ";

    if (o->letter) {
        g_snprintf(letter, sizeof(letter), "-%c, ", o->letter);
    }
    g_snprintf(left, sizeof(left), "%s--%s%s%s", letter, o->name,
               o->argument ? " " : "", o->argument ? o->argument : "");
    printf("  %-22s %s\n", left, o->help);
}

static int print_help(void)
{
    const char *program = g_get_prgname();

    printf("usage: %s [OPTION]... [-c COMMAND]... [FILE]\n\n"
           "Issues single requests to a disk image, from -c or from a "
           "prompt.\n\n",
           program);
    for (size_t i = 0; i < N_OPTIONS; i++) {
        if (options[i].help) {
            print_option(&options[i]);
        }
    }
    printf("\n'%s -c help' lists the commands, '%s -c \"help write\"' explains "
           "one.\n\n"
           "examples:\n"
           "  %s -f qcow2 -c 'write -P 0xaa 0 64k' -c 'read -P 0xaa 0 64k' "
           "disk.qcow2\n"
           "  %s --image-opts driver=null-co,size=1G -c 'read 0 1M'\n\n"
           "exit status: 0 if all commands succeeded, 1 if one failed or the "
           "image\ncannot be opened.\n",
           program, program, program, program);
    return 0;
}

static int usage_error(void)
{
    fprintf(stderr, "Try '%s --help' for more information\n", g_get_prgname());
    return 1;
}

static bool one_of(const char *text, const char *const *words)
{
    return g_strv_contains(words, text);
}

/* 0: go on; else 1 + the exit status. */
static int apply(struct program *p, const struct io_option *o,
                 const char *argument)
{
    static const char *const discards[] = {"ignore", "off", "unmap", "on",
                                           NULL};
    static const char *const aios[] = {"threads", "native", "io_uring", NULL};

    switch (o->letter ? o->letter : *o->name) {
    case 'c':
        g_ptr_array_add(p->commands, (gpointer)argument);
        return 0;
    case 'f':
        p->how.format = argument;
        return 0;
    case 'r':
        p->how.writable = false;
        return 0;
    case 'n':
        p->how.cache = "none";
        return 0;
    case 't':
        if (!cache_mode_find(argument)) {
            tool_error("Invalid cache option: %s", argument);
            return 2;
        }
        p->how.cache = argument;
        return 0;
    case 'd':
        if (!one_of(argument, discards)) {
            tool_error("Invalid discard option: %s", argument);
            return 2;
        }
        p->how.discard = one_of(argument, &discards[2]) ? "unmap" : "ignore";
        return 0;
    case 'i':
        if (!o->letter) {
            p->how.image_opts = true;
            return 0;
        }
        if (!one_of(argument, aios)) {
            tool_error("Invalid aio option: %s", argument);
            return 2;
        }
        p->how.aio = argument;
        return 0;
    case 'k':
        p->how.aio = "native";
        return 0;
    case 'm':
        p->misalign = true;
        return 0;
    case 'U':
        p->how.force_share = true;
        return 0;
    case 'h':
        return 1 + print_help();
    case 'V':
        printf("%s version 0.1\n", g_get_prgname());
        return 1;
    default:
        tool_error("option '--%s' is not supported", o->name);
        return 2;
    }
}

/* 0: go on; else 1 + the exit status. */
static int parse(struct program *p, int argc, char **argv)
{
    struct option longopts[N_OPTIONS + 1] = {0};
    char letters[2 * N_OPTIONS + 1] = "";
    int opt;

    for (int i = 0; i < N_OPTIONS; i++) {
        const struct io_option *o = &options[i];
        longopts[i] = (struct option){.name = o->name,
                                      .has_arg = o->argument ? required_argument
                                                             : no_argument,
                                      .val = BY_NAME + i};
        if (o->letter) {
            char one[3] = {o->letter, o->argument ? ':' : 0, 0};
            g_strlcat(letters, one, sizeof(letters));
        }
    }
    while ((opt = getopt_long(argc, argv, letters, longopts, NULL)) != -1) {
        int row = opt - BY_NAME;
        for (int i = 0; opt < BY_NAME && i < N_OPTIONS; i++) {
            row = options[i].letter == opt ? i : row;
        }
        int stop =
            row < 0 ? 1 + usage_error() : apply(p, &options[row], optarg);
        if (stop) {
            return stop;
        }
    }
    if (argc - optind > 1) {
        tool_error("Only one image file may be given");
        return 1 + usage_error();
    }
    if (p->how.image_opts && p->how.format) {
        tool_error("--image-opts and -f are mutually exclusive");
        return 2;
    }
    p->how.filename = optind < argc ? argv[optind] : NULL;
    return 0;
}

/* ---- running ---- */

struct line {
    char *text;
    size_t size;
};

/* On a worker, so that what is in flight goes on while people think. */
static int read_line(void *opaque)
{
    struct line *l = opaque;
    return getline(&l->text, &l->size, stdin) < 0 ? -1 : 0;
}

static bool co_prompt(struct io_session *s)
{
    struct line line = {0};
    bool ok = true;

    while (!s->ended) {
        printf("%s> ", g_get_prgname());
        fflush(stdout);
        if (co_worker(read_line, &line) < 0) {
            break;
        }
        ok &= co_io_command(s, line.text);
    }
    free(line.text);
    return ok;
}

static int co_main(void *opaque)
{
    struct program *p = opaque;
    struct io_session s = {.out = stdout,
                           .err = stderr,
                           .program = g_get_prgname(),
                           .misalign = p->misalign ? 16 : 0,
                           .more = file_commands};
    bool ok = !p->how.filename || co_file_open(&s, &p->how);

    if (!ok) {
        return 1;
    }
    for (guint i = 0; i < p->commands->len && !s.ended; i++) {
        ok &= co_io_command(&s, p->commands->pdata[i]);
    }
    if (p->commands->len == 0) {
        ok = co_prompt(&s);
    }
    co_file_close(&s);
    return !ok;
}

int main(int argc, char **argv)
{
    struct program p = {.how.writable = true, .commands = g_ptr_array_new()};

    tool_init(argv[0]);
    int status = parse(&p, argc, argv);
    status = status ? status - 1 : tool_run(co_main, &p);
    g_ptr_array_unref(p.commands);
    return status;
}
