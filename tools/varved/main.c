/*
 * varved: the storage daemon.
 *
 * The main thread runs the main loop, where monitors live, beside GLib's
 * default context; one I/O thread runs the loop that is the graphs' home, and
 * others are made by users. Options are
 * carried out one by one before the main loop runs, so that no client sees half
 * of them. It ends the same way whoever says so: the guest stops, jobs are
 * cancelled, nodes are flushed and closed, and then the monitors go, so that
 * clients hear of all that.
 */
#include <glib-unix.h>
#include <locale.h>
#include <signal.h>
#include <string.h>

#include "aio/iothread.h"
#include "aio/loop.h"
#include "aio/mailbox.h"
#include "block/backend.h"
#include "block/breaks.h"
#include "block/export.h"
#include "block/job.h"
#include "block/place.h"
#include "hw/runstate.h"
#include "hw/virtio_blk.h"
#include "qmp/monitor.h"
#include "tools/common/tool.h"
#include "tools/varved/daemon.h"
#include "util/error.h"

void daemon_call_graph(struct daemon *d, co_fn *fn, void *opaque)
{
    /* A blocking call is for threads without a loop. */
    loop_bind(NULL);
    loop_call_blocking(iothread_loop(d->thread), fn, opaque);
    loop_bind(d->loop);
}

/* ---- the end ---- */

static void end_program(void *opaque)
{
    g_main_loop_quit(((struct daemon *)opaque)->main_loop);
}

static gboolean end_by_signal(gpointer opaque)
{
    struct daemon *d = opaque;
    const struct shutdown_event event = {.reason = SHUTDOWN_CAUSE_HOST_SIGNAL};

    if (g_main_loop_is_running(d->main_loop)) {
        monitor_event(QAPI_EVENT_SHUTDOWN, &event);
        end_program(d);
    }
    return G_SOURCE_CONTINUE;
}

struct visit {
    struct daemon *d;
    co_fn *fn;
    bool done;
};

static void co_visit_entry(void *opaque)
{
    struct visit *v = opaque;

    co_call_on(iothread_loop(v->d->thread), v->fn, v->d);
    v->done = true;
}

/* Runs fn(d) on the graph's loop while the main loop goes on, so that commands
 * come to their end and clients hear of events. */
static void visit_graph(struct daemon *d, co_fn *fn)
{
    struct visit v = {.d = d, .fn = fn};

    co_start(co_visit_entry, &v);
    while (!v.done) {
        g_main_context_iteration(NULL, TRUE);
    }
}

static void co_let_go(void *opaque)
{
    breaks_release_all();
    graph_give_up();
}

static void co_cancel_jobs(void *opaque)
{
    co_jobs_cancel_all();
}

static void co_stop_work(void *opaque)
{
    co_graph_lock(GRAPH_LOCK_LOOPS);
    co_graphs_each(co_let_go, NULL, false);
    graph_unlock(GRAPH_LOCK_LOOPS);
    co_vm_stop(RUN_STATE_SHUTDOWN);
    co_graph_lock(GRAPH_LOCK_LOOPS);
    co_graphs_each(co_cancel_jobs, NULL, false);
    graph_unlock(GRAPH_LOCK_LOOPS);
}

static void co_close_graph(void *opaque)
{
    co_jobs_cancel_all();
    co_exports_end();
    co_hw_device_del_all();
    co_drives_close(opaque);
    co_monitor_close_nodes();
}

/* No command runs any more, so loops stay. */
static void co_close_graphs(void *opaque)
{
    co_graphs_each(co_close_graph, opaque, true);
}

static void end_daemon(struct daemon *d)
{
    /* A command may wait for a job to go, or start one as its last act. */
    monitors_stop();
    visit_graph(d, co_stop_work);
    while (!monitors_stop()) {
        g_main_context_iteration(NULL, TRUE);
    }
    visit_graph(d, co_close_graphs);
    monitors_end();
}

/* ---- the beginning ---- */

static void co_start_guest(void *opaque)
{
    co_vm_start();
}

static bool start_daemon(struct daemon *d, const GPtrArray *given, int *status)
{
    g_autoptr(GError) error = NULL;
    enum option_result result = options_apply(d, given);

    *status = result == OPTION_FAILED;
    if (result != OPTION_OK) {
        return false;
    }
    if (!daemon_add_disks(d, &error) || !daemon_write_pidfile(d, &error)) {
        *status = tool_fail(&error);
        return false;
    }
    if (!d->start_stopped) {
        daemon_call_graph(d, co_start_guest, NULL);
    }
    daemon_ready(d);
    return true;
}

static int run(struct daemon *d, const GPtrArray *given)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
    guint sources[G_N_ELEMENTS(signals)];
    int status;

    d->loop = loop_new("main", LOOP_CLOCK_REAL);
    d->thread = iothread_new("graph");
    d->main_loop = g_main_loop_new(NULL, FALSE);
    GSource *source = loop_attach_glib(d->loop, NULL);
    /* The loop looks after itself when it is entered twice; GLib would take the
     * source out and in around each pass, with two writes to wake itself up. */
    g_source_set_can_recurse(source, TRUE);
    loop_bind(d->loop);
    monitors_begin(d->loop, iothread_loop(d->thread));
    monitors_set_quit(end_program, d);

    if (start_daemon(d, given, &status)) {
        for (size_t i = 0; i < G_N_ELEMENTS(signals); i++) {
            sources[i] = g_unix_signal_add(signals[i], end_by_signal, d);
        }
        g_main_loop_run(d->main_loop);
        for (size_t i = 0; i < G_N_ELEMENTS(signals); i++) {
            g_source_remove(sources[i]);
        }
    }
    end_daemon(d);
    daemon_remove_pidfile(d);
    iothread_free(d->thread);
    g_source_destroy(source);
    g_source_unref(source);
    g_main_loop_unref(d->main_loop);
    loop_bind(NULL);
    loop_free(d->loop);
    return status;
}

int main(int argc, char **argv)
{
    struct daemon d = {
        .chardevs = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                          chardev_free),
        .drives = g_ptr_array_new(),
        .disks = g_ptr_array_new_with_free_func(g_free),
        .pidfile_fd = -1,
        .parent_pipe = -1,
    };
    GPtrArray *given;

    setlocale(LC_ALL, "C.UTF-8");
    signal(SIGPIPE, SIG_IGN);
    tool_init(argv[0]);
    enum option_result result = options_parse(&d, argc, argv, &given);
    int status = result == OPTION_FAILED;
    if (result == OPTION_OK && d.daemonize && !daemon_fork(&d)) {
        status = 1;
    } else if (result == OPTION_OK) {
        status = run(&d, given);
    }
    g_ptr_array_unref(given);
    g_ptr_array_unref(d.disks);
    g_ptr_array_unref(d.drives);
    g_hash_table_unref(d.chardevs);
    return status;
}
