/*
 * varve-io: issues single reads, writes, flushes and discards to an image, from
 * -c arguments or a prompt.
 *
 * One coroutine on one loop opens the file and runs the commands one by one
 * (block/io_command/); commands that only this program has are in files.c.
 */
#include <stdio.h>
#include <string.h>

#include "aio/file_io.h"
#include "tools/common/options.h"
#include "tools/common/tool.h"
#include "tools/varve-io/io.h"

struct program {
    struct image_open how; /* filename NULL: none yet */
    GPtrArray *commands;   /* of -c; empty: prompt */
    bool misalign;
    bool read_only, native_aio;
    bool no_cache; /* the last of this and of cache counts */
};

/* ---- options ---- */

static bool take(char letter, const char *argument, const char **to)
{
    g_autoptr(GError) error = NULL;

    if (!io_file_option_check(letter, argument, &error)) {
        tool_error("%s", error->message);
        return false;
    }
    *to = argument;
    return true;
}

static bool take_cache(const char *argument, void *opaque, int *status)
{
    struct program *p = opaque;

    p->no_cache = false;
    return take('t', argument, &p->how.cache);
}

static bool take_discard(const char *argument, void *opaque, int *status)
{
    struct program *p = opaque;
    return take('d', argument, &p->how.discard);
}

static bool take_aio(const char *argument, void *opaque, int *status)
{
    struct program *p = opaque;
    return take('i', argument, &p->how.aio);
}

static void print_help(const struct tool_option *rows)
{
    const char *program = g_get_prgname();

    printf("usage: %s [OPTION]... [-c COMMAND]... [FILE]\n\n"
           "Issues single requests to a disk image, from -c or from a "
           "prompt.\n\n",
           program);
    tool_options_help(rows);
    printf("\n'%s -c help' lists the commands, '%s -c \"help write\"' explains "
           "one.\n\n"
           "examples:\n"
           "  %s -f qcow2 -c 'write -P 0xaa 0 64k' -c 'read -P 0xaa 0 64k' "
           "disk.qcow2\n"
           "  %s --image-opts driver=null-co,size=1G -c 'read 0 1M'\n\n"
           "exit status: 0 if all commands succeeded, 1 if one failed or the "
           "image\ncannot be opened.\n",
           program, program, program, program);
}

static bool parse_words(struct program *p, int argc, char **argv, int first)
{
    if (argc - first > 1) {
        tool_usage_error("Only one image file may be given");
        return false;
    }
    if (p->how.image_opts && p->how.format) {
        tool_error("--image-opts and -f are mutually exclusive");
        return false;
    }
    p->how.filename = first < argc ? argv[first] : NULL;
    p->how.writable = !p->read_only;
    if (p->no_cache) {
        p->how.cache = "none";
    }
    if (p->native_aio) {
        p->how.aio = "native";
    }
    return true;
}

/* False: the program ends with *status. */
static bool parse(struct program *p, int argc, char **argv, int *status)
{
    bool help = false, version = false;
    const struct tool_option rows[] = {
        {'c', "cmd", .list = p->commands, .argument = "COMMAND",
         .help = "run this; may be given more than once"},
        {'f', "format", .text = &p->how.format, .argument = "FMT",
         .help = "format of the image; found out if not given"},
        {'r', "read-only", .flag = &p->read_only,
         .help = "open the image for reading"},
        {'s', "snapshot", .flag = &p->how.snapshot,
         .help = "write to a temporary file, not to the image"},
        {'C', "copy-on-read", .flag = &p->how.copy_on_read,
         .help = "keep what is read from the backing file"},
        {'n', "nocache", .flag = &p->no_cache,
         .help = "go past the host's page cache, as -t none"},
        {'t', "cache", .take = take_cache, .opaque = p, .argument = "MODE",
         .help = "none, writeback, writethrough, directsync or unsafe"},
        {'d', "discard", .take = take_discard, .opaque = p, .argument = "MODE",
         .help = "ignore or unmap (the default)"},
        {'i', "aio", .take = take_aio, .opaque = p, .argument = "MODE",
         .help = "threads, native or io_uring"},
        {'k', "native-aio", .flag = &p->native_aio, .help = "as --aio=native"},
        {'m', "misalign", .flag = &p->misalign,
         .help = "use memory that is not aligned"},
        {'U', "force-share", .flag = &p->how.force_share,
         .help = "read an image that another process writes to"},
        {0, "image-opts", .flag = &p->how.image_opts,
         .help = "FILE is a list of options, not a name"},
        {0, "object", .take = tool_take_object, .argument = "TYPE,id=ID,...",
         .help = "make an object that the image needs"},
        {'T', "trace", .take = tool_take_trace, .argument = "PATTERN",
         .help = "trace events; there are none"},
        {'h', "help", .flag = &help, .help = "show this"},
        {'V', "version", .flag = &version, .help = "show the version"},
        {0},
    };
    int first = tool_options(argc, argv, rows, status);

    if (!first) {
        return false;
    }
    *status = 0;
    if (help) {
        print_help(rows);
        return false;
    }
    if (version) {
        printf("%s version 0.1\n", g_get_prgname());
        return false;
    }
    *status = 1;
    return parse_words(p, argc, argv, first);
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
        line.text[strcspn(line.text, "\n")] = 0;
        ok &= co_io_command(s, line.text);
    }
    free(line.text);
    return ok;
}

static int co_main(void *opaque)
{
    struct program *p = opaque;
    struct io_file file = {.image_opts = p->how.image_opts};
    struct io_session s = {.out = stdout,
                           .err = stderr,
                           .breaks_out = stdout,
                           .program = g_get_prgname(),
                           .misalign = p->misalign ? 16 : 0,
                           .more = file_commands,
                           .opaque = &file};
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
    struct program p = {.commands = g_ptr_array_new()};
    int status;

    tool_init(argv[0]);
    if (parse(&p, argc, argv, &status)) {
        status = tool_run(co_main, &p);
    }
    g_ptr_array_unref(p.commands);
    return status;
}
