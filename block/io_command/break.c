/*
 * Breakpoints of blkdebug.
 */
#include "block/io_command/io_command_int.h"

#include "block/backend.h"
#include "block/breaks.h"

/* As scripts expect it on the standard output of qemu-io. */
static void say(void *opaque, const char *tag, bool stopped)
{
    fprintf(opaque, "blkdebug: %s request '%s'\n",
            stopped ? "Suspended" : "Resuming", tag);
}

static bool co_break(struct io_session *s, const struct io_args *args)
{
    int ret = node_break_set(io_node(s), args->word[0], args->word[1],
                             s->breaks_out ? say : NULL, s->breaks_out);
    if (ret < 0) {
        fprintf(s->out, "Could not set breakpoint: %s\n", g_strerror(-ret));
    }
    return ret == 0;
}

const struct io_command io_command_break = {
    .name = "break",
    .min = 2,
    .max = 2,
    .usage = "event tag",
    .what = "stops the next request at that event, under that name",
    .help = " The event is one of blkdebug's, such as write_aio. 'resume' lets "
            "the\n request go on.\n"
            "\n"
            " 'break write_aio A' stops the next write to a file",
    .graph_as_is = true,
    .co_run = co_break,
};

static bool co_remove_break(struct io_session *s, const struct io_args *args)
{
    int ret = node_break_remove(io_node(s), args->word[0]);

    if (ret < 0) {
        fprintf(s->out, "Could not remove breakpoint %s: %s\n", args->word[0],
                g_strerror(-ret));
    }
    return ret == 0;
}

const struct io_command io_command_remove_break = {
    .name = "remove_break",
    .min = 1,
    .max = 1,
    .usage = "tag",
    .what = "removes a breakpoint, and lets go on what it stopped",
    .graph_as_is = true,
    .co_run = co_remove_break,
};

static bool co_resume(struct io_session *s, const struct io_args *args)
{
    int ret = node_break_resume(io_node(s), args->word[0]);

    if (ret < 0) {
        fprintf(s->out, "Could not resume request: %s\n", g_strerror(-ret));
    }
    return ret == 0;
}

const struct io_command io_command_resume = {
    .name = "resume",
    .min = 1,
    .max = 1,
    .usage = "tag",
    .what = "lets the stopped request of that name go on",
    .graph_as_is = true,
    .co_run = co_resume,
};

static bool co_wait_break(struct io_session *s, const struct io_args *args)
{
    int ret = co_node_break_wait(io_node(s), args->word[0]);

    if (ret < 0) {
        fprintf(s->out, "Could not wait for a request: %s\n", g_strerror(-ret));
    }
    return ret == 0;
}

const struct io_command io_command_wait_break = {
    .name = "wait_break",
    .min = 1,
    .max = 1,
    .usage = "tag",
    .what = "waits until a request of that name is stopped",
    .graph_as_is = true,
    .co_run = co_wait_break,
};
