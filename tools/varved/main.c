/*
 * varved: the storage daemon.
 *
 * The main thread runs the main loop, where monitors live, beside GLib's
 * default context; one I/O thread runs the loop of the graph.
 */
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <glib-unix.h>
#include <glib.h>

#include "aio/iothread.h"
#include "aio/loop.h"
#include "aio/mailbox.h"
#include "block/job.h"
#include "qmp/monitor.h"
#include "util/error.h"
#include "util/keyval.h"

struct program {
    GMainLoop *main;
    GHashTable *chardevs; /* id -> text of the channel */
    unsigned monitors;
};

static const char *basename_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static void fail(const char *fmt, ...) G_GNUC_PRINTF(1, 2) G_GNUC_NORETURN;
static void fail(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    fprintf(stderr, "%s: %s\n", g_get_prgname(), text);
    exit(1);
}

static const char *option(const GPtrArray *pairs, const char *key)
{
    for (guint i = 0; i < pairs->len; i++) {
        const struct keyval *pair = pairs->pdata[i];
        if (!strcmp(pair->key, key)) {
            return pair->value;
        }
    }
    return NULL;
}

static bool option_on(const GPtrArray *pairs, const char *key, bool absent)
{
    const char *value = option(pairs, key);
    return value ? !strcmp(value, "on") : absent;
}

/* "stdio", "unix:PATH[,...]", "socket,path=PATH[,...]" and
 * "socket,host=NAME,port=NUMBER[,...]". */
static void add_monitor(struct program *p, const char *text)
{
    GError *error = NULL;
    struct monitor_channel channel = {0};
    g_autoptr(GPtrArray) pairs = keyval_split(text, "kind", &error);
    const char *kind = pairs ? option(pairs, "kind") : NULL;

    if (!kind) {
        fail("%s", error ? error->message : "a monitor needs a channel");
    }
    if (g_str_has_prefix(kind, "unix:")) {
        channel.kind = MONITOR_CHANNEL_UNIX;
        channel.path = kind + strlen("unix:");
    } else if (!strcmp(kind, "socket")) {
        channel.kind = MONITOR_CHANNEL_UNIX;
        channel.path = option(pairs, "path");
        channel.host = option(pairs, "host");
        channel.port = option(pairs, "port");
        if (!channel.path) {
            channel.kind = MONITOR_CHANNEL_TCP;
        }
    } else if (strcmp(kind, "stdio") != 0) {
        fail("'%s' is no channel for a monitor", kind);
    }
    channel.server = option_on(pairs, "server", false);
    channel.wait = option_on(pairs, "wait", true);
    channel.nodelay = option_on(pairs, "nodelay", false);
    g_autofree char *id = g_strdup_printf("compat_monitor%u", p->monitors++);
    if (!monitor_new(id, &channel, false, &error)) {
        fail("%s", error->message);
    }
}

static gboolean end_program(gpointer opaque)
{
    g_main_loop_quit(((struct program *)opaque)->main);
    return G_SOURCE_CONTINUE;
}

static void quit_command(void *opaque)
{
    end_program(opaque);
}

static void parse(struct program *p, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i] + strspn(argv[i], "-");
        const char *value = i + 1 < argc ? argv[++i] : NULL;
        if (!value) {
            fail("%s: requires an argument", argv[i]);
        }
        if (!strcmp(name, "qmp")) {
            add_monitor(p, value);
        } else if (!strcmp(name, "chardev")) {
            g_autoptr(GPtrArray) pairs = keyval_split(value, "kind", NULL);
            const char *id = pairs ? option(pairs, "id") : NULL;
            g_hash_table_insert(p->chardevs, g_strdup(id ? id : ""),
                                g_strdup(value));
        } else if (!strcmp(name, "monitor")) {
            const char *eq = strrchr(value, '=');
            const char *text =
                g_hash_table_lookup(p->chardevs, eq ? eq + 1 : value);
            if (!text) {
                fail("chardev \"%s\" not found", value);
            }
            add_monitor(p, text);
        } else {
            fail("%s: invalid option", argv[i - 1]);
        }
    }
}

static void cancel_jobs(void *opaque)
{
    co_jobs_cancel_all();
}

static void end_graph(void *opaque)
{
    co_jobs_cancel_all();
    co_monitor_close_nodes();
}

int main(int argc, char **argv)
{
    setlocale(LC_ALL, "C.UTF-8");
    signal(SIGPIPE, SIG_IGN);
    g_set_prgname(basename_of(argv[0]));

    struct loop *loop = loop_new("main", LOOP_CLOCK_REAL);
    struct iothread *thread = iothread_new("graph");
    GMainLoop *main_loop = g_main_loop_new(NULL, FALSE);
    GSource *source = loop_attach_glib(loop, NULL);
    /* The loop looks after itself when it is entered twice; GLib would take the
     * source out and in around each pass, with two writes to wake itself up. */
    g_source_set_can_recurse(source, TRUE);
    struct program program = {
        .main = main_loop,
        .chardevs =
            g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free),
    };

    loop_bind(loop);
    monitors_begin(loop, iothread_loop(thread));
    monitors_set_quit(quit_command, &program);
    g_unix_signal_add(SIGTERM, end_program, &program);
    g_unix_signal_add(SIGINT, end_program, &program);
    g_unix_signal_add(SIGHUP, end_program, &program);
    parse(&program, argc, argv);
    g_main_loop_run(main_loop);

    /* A command may wait for a job to go, or start one as its last act. */
    monitors_stop();
    loop_bind(NULL);
    loop_call_blocking(iothread_loop(thread), cancel_jobs, NULL);
    loop_bind(loop);
    while (!monitors_stop()) {
        g_main_context_iteration(NULL, TRUE);
    }
    loop_bind(NULL);
    loop_call_blocking(iothread_loop(thread), end_graph, NULL);
    loop_bind(loop);
    monitors_end();
    iothread_free(thread);
    g_source_destroy(source);
    g_source_unref(source);
    g_main_loop_unref(main_loop);
    g_hash_table_unref(program.chardevs);
    loop_bind(NULL);
    loop_free(loop);
    return 0;
}
