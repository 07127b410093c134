/*
 * The commands that are about the open file as a whole, and about the program.
 */
#include "tools/varve-io/io.h"

#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "block/backend.h"
#include "block/breaks.h"
#include "block/graph.h"
#include "block/types.h"
#include "util/error.h"

bool co_file_open(struct io_session *s, const struct image_open *how)
{
    g_autoptr(GError) error = NULL;
    bool writethrough = false;

    if (s->backend) {
        error_set(&error, "file open already, try 'help close'");
        return io_fail(s, &error);
    }
    struct node *node = co_image_open(how, &writethrough, &error);
    s->node = node;
    if (node && how->writable && node->read_only) {
        error_set(&error, "Block node is read-only");
    } else if (node) {
        unsigned perm = PERM_CONSISTENT_READ | (how->writable ? PERM_WRITE : 0);
        s->backend = co_backend_new(NULL, node, perm, PERM_ALL, &error);
    }
    if (node && how->copy_on_read) {
        s->node = node->file->child; /* the filter is nobody's wish */
    }
    if (node) {
        co_node_unref(node);
    }
    if (s->backend) {
        s->backend->write_cache = !writethrough;
        return true;
    }
    s->node = NULL;
    if (how->image_opts) {
        g_prefix_error(&error, "can't open: ");
    } else {
        g_prefix_error(&error, "can't open device %s: ", how->filename);
    }
    return io_fail(s, &error);
}

void co_file_close(struct io_session *s)
{
    if (s->backend) {
        breaks_release_all(); /* or the rest would wait for ever */
        co_io_session_drain(s);
        co_backend_unref(s->backend);
        s->backend = NULL;
        s->node = NULL;
    }
}

bool io_file_option_check(char letter, const char *text, GError **error)
{
    static const char *const aio[] = {"threads", "native", "io_uring", NULL};

    switch (letter) {
    case 't':
        return cache_mode_find(text) ||
               error_set(error, "Invalid cache option: %s", text);
    case 'd':
        return discard_mode_find(text) ||
               error_set(error, "Invalid discard option: %s", text);
    case 'i':
        return g_strv_contains(aio, text) ||
               error_set(error, "Invalid aio option: %s", text);
    default:
        return true;
    }
}

static bool check_open(struct io_session *s, unsigned char letter,
                       const char *text)
{
    const struct io_file *file = s->opaque;
    g_autoptr(GError) error = NULL;

    if (letter == 'o' && file->image_opts) {
        fprintf(s->out, "--image-opts and 'open -o' are mutually exclusive\n");
        return false;
    }
    return io_file_option_check((char)letter, text, &error) ||
           io_fail(s, &error);
}

static bool co_open(struct io_session *s, const struct io_args *args)
{
    struct image_open how = {
        .cache = args->option['t'],
        .discard = args->option['d'],
        .aio = args->given['k'] ? "native" : args->option['i'],
        .writable = !args->given['r'],
        .force_share = args->given['U'],
        .snapshot = args->given['s'],
        .copy_on_read = args->given['C'],
    };
    const struct io_file *file = s->opaque;

    if (args->n > 1) {
        return io_usage(s, args);
    }
    if (args->given['n']) {
        how.cache = "none";
    }
    how.image_opts = args->n == 0 || file->image_opts;
    how.filename = args->n            ? args->word[0]
                   : args->given['o'] ? args->option['o']
                                      : "";
    how.options = args->option['o'];
    return co_file_open(s, &how);
}

static const struct io_command command_open = {
    .name = "open",
    .alias = "o",
    .options = "rsCnkUt:d:i:o:",
    .min = 1,
    .max = -1,
    .usage = "[-rsCnkU] [-t cache] [-d discard] [-i aio] [-o options] [path]",
    .what = "opens a file for the commands that follow",
    .help = " -r, for reading only\n"
            " -s, what is written goes to a temporary file\n"
            " -C, what is read from the backing file stays in it\n"
            " -n, as -t none\n"
            " -k, as -i native\n"
            " -U, another process may write to it\n"
            " -t, cache mode\n"
            " -d, ignore or unmap\n"
            " -i, threads, native or io_uring\n"
            " -o, options of the node: 'driver=qcow2,discard=unmap'\n"
            "\n"
            " 'open -n -o driver=raw /tmp/data' opens raw data uncached",
    .no_file = true,
    .check = check_open,
    .co_run = co_open,
};

static bool co_close(struct io_session *s, const struct io_args *args)
{
    co_file_close(s);
    return true;
}

static const struct io_command command_close = {
    .name = "close",
    .alias = "c",
    .usage = "",
    .what = "closes the file",
    .co_run = co_close,
};

static bool co_quit(struct io_session *s, const struct io_args *args)
{
    s->ended = true;
    return true;
}

static const struct io_command command_quit = {
    .name = "quit",
    .alias = "q",
    .max = -1,
    .usage = "",
    .what = "ends the program",
    .no_file = true,
    .co_run = co_quit,
};

static bool co_abort(struct io_session *s, const struct io_args *args)
{
    fflush(s->out);
    abort();
}

static const struct io_command command_abort = {
    .name = "abort",
    .max = 0,
    .usage = "",
    .what = "dies here and now, by abort(3)",
    .no_file = true,
    .co_run = co_abort,
};

static bool co_sigraise(struct io_session *s, const struct io_args *args)
{
    int64_t number;

    if (!io_parse_number(s, args->word[0], &number)) {
        return false;
    }
    if (number > NSIG) {
        fprintf(s->out,
                "signal argument '%s' is too large to be a valid signal\n",
                args->word[0]);
        return false;
    }
    fflush(s->out);
    raise((int)number);
    return true;
}

static const struct io_command command_sigraise = {
    .name = "sigraise",
    .min = 1,
    .max = 1,
    .usage = "signal",
    .what = "sends itself a signal, such as 9",
    .no_file = true,
    .co_run = co_sigraise,
};

const struct io_command *const file_commands[] = {
    &command_abort, &command_close,    &command_open,
    &command_quit,  &command_sigraise, NULL,
};
