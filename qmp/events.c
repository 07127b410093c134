/*
 * From the announcements of the block layer and of the machine to events.
 *
 * Listeners run on the graph's loop. What they are told is put into the event's
 * plain struct there, copied, and mailed to the main loop with the time at
 * which it happened. Mail of one loop arrives in order, and so does the return
 * of a command that visited it: a client sees events and answers in the order
 * in which things came about.
 */
#include <json-c/json.h>

#include "aio/loop.h"
#include "aio/mailbox.h"
#include "block/backend.h"
#include "block/job.h"
#include "block/listener.h"
#include "event_rate.h"
#include "hw/runstate.h"
#include "session.h"
#include "util/range.h"

struct event_mail {
    struct mail mail;
    enum qapi_event event;
    void *data;
    int64_t time_us;
};

static void event_emit(enum qapi_event event, const void *data, int64_t time_us)
{
    const struct qapi_event_info *info = &qapi_events[event];
    struct json_object *message = json_object_new_object();
    struct json_object *timestamp = json_object_new_object();

    json_object_object_add(timestamp, "seconds",
                           json_object_new_int64(time_us / G_USEC_PER_SEC));
    json_object_object_add(timestamp, "microseconds",
                           json_object_new_int64(time_us % G_USEC_PER_SEC));
    json_object_object_add(message, "timestamp", timestamp);
    json_object_object_add(message, "event",
                           json_object_new_string(info->name));
    if (info->data) {
        json_object_object_add(message, "data", qapi_encode(info->data, data));
    }
    monitors_broadcast(message);
    json_object_put(message);
}

static void event_take(enum qapi_event event, const void *data, int64_t time_us)
{
    if (!event_rate_hold(event, data, time_us, event_emit)) {
        event_emit(event, data, time_us);
    }
}

static void event_arrived(void *opaque)
{
    struct event_mail *m = opaque;
    const struct qapi_type *type = qapi_events[m->event].data;

    event_take(m->event, m->data, m->time_us);
    if (type) {
        qapi_free(type, m->data);
    }
    g_free(m);
}

void monitor_event(enum qapi_event event, const void *data)
{
    int64_t now = g_get_real_time();
    const struct qapi_type *type = qapi_events[event].data;

    if (loop_current() == monitors_main_loop()) {
        event_take(event, data, now);
        return;
    }
    struct event_mail *m = g_new(struct event_mail, 1);
    *m = (struct event_mail){
        .mail = {.fn = event_arrived, .opaque = m},
        .event = event,
        .data = type ? qapi_clone(type, data) : NULL,
        .time_us = now,
    };
    loop_post(monitors_main_loop(), &m->mail);
}

/* ---- jobs ---- */

static void on_job_status(void *opaque, const struct job *job)
{
    struct job_status_change_event data = {
        .id = job->id,
        .status = job->status,
    };
    monitor_event(QAPI_EVENT_JOB_STATUS_CHANGE, &data);
}

static void on_job_completed(void *opaque, const struct job *job)
{
    struct block_job_completed_event data = {
        .type = job->driver->type,
        .device = job->id,
        .len = job->progress_total,
        .offset = job->progress_current,
        .speed = job->speed,
        .error = job->ret < 0 && !job->error ? (char *)g_strerror(-job->ret)
                                             : job->error,
    };
    monitor_event(QAPI_EVENT_BLOCK_JOB_COMPLETED, &data);
}

static void on_job_cancelled(void *opaque, const struct job *job)
{
    struct block_job_cancelled_event data = {
        .type = job->driver->type,
        .device = job->id,
        .len = job->progress_total,
        .offset = job->progress_current,
        .speed = job->speed,
    };
    monitor_event(QAPI_EVENT_BLOCK_JOB_CANCELLED, &data);
}

static void on_job_ready(void *opaque, const struct job *job)
{
    struct block_job_ready_event data = {
        .type = job->driver->type,
        .device = job->id,
        .len = job->progress_total,
        .offset = job->progress_current,
        .speed = job->speed,
    };
    monitor_event(QAPI_EVENT_BLOCK_JOB_READY, &data);
}

static void on_job_pending(void *opaque, const struct job *job)
{
    struct block_job_pending_event data = {
        .type = job->driver->type,
        .id = job->id,
    };
    monitor_event(QAPI_EVENT_BLOCK_JOB_PENDING, &data);
}

static void on_job_error(void *opaque, const struct job *job, bool is_read,
                         enum block_error_action action)
{
    struct block_job_error_event data = {
        .device = job->id,
        .operation = is_read ? IO_OPERATION_TYPE_READ : IO_OPERATION_TYPE_WRITE,
        .action = action,
    };
    monitor_event(QAPI_EVENT_BLOCK_JOB_ERROR, &data);
}

/* ---- backends and nodes ---- */

static void on_io_error(void *opaque, const struct backend *backend,
                        bool is_read, enum block_error_action action,
                        int errnum)
{
    struct block_io_error_event data = {
        .device = backend->name ? backend->name : (char *)"",
        .node_name = backend->node ? backend->node->name : NULL,
        .operation = is_read ? IO_OPERATION_TYPE_READ : IO_OPERATION_TYPE_WRITE,
        .action = action,
        .has_nospace = backend->io_status_enabled,
        .nospace = errnum == ENOSPC,
        .reason = (char *)g_strerror(errnum),
    };
    monitor_event(QAPI_EVENT_BLOCK_IO_ERROR, &data);
}

/* The backend's, or "". */
static char *name_of_backend(const struct node *node)
{
    struct backend *b;

    TAILQ_FOREACH (b, &node->graph->backends, link) {
        if (b->node == node && b->name) {
            return b->name;
        }
    }
    return (char *)"";
}

static void on_image_corrupted(void *opaque, const struct node *node,
                               const char *message, int64_t offset,
                               int64_t bytes, bool fatal)
{
    struct block_image_corrupted_event data = {
        .device = name_of_backend(node),
        .node_name = node->name,
        .msg = (char *)message,
        .has_offset = offset >= 0,
        .offset = offset,
        .has_size = offset >= 0 && bytes >= 0,
        .size = bytes,
        .fatal = fatal,
    };

    monitor_event(QAPI_EVENT_BLOCK_IMAGE_CORRUPTED, &data);
}

static void on_write_threshold(void *opaque, const struct node *node,
                               int64_t exceeded_by, int64_t threshold)
{
    struct block_write_threshold_event data = {
        .node_name = node->name,
        .amount_exceeded = (uint64_t)exceeded_by,
        .write_threshold = (uint64_t)threshold,
    };
    monitor_event(QAPI_EVENT_BLOCK_WRITE_THRESHOLD, &data);
}

/* Sectors that a range touches. */
static int64_t sectors(int64_t offset, int64_t bytes)
{
    int64_t end = align_up(offset + bytes, BLOCK_SECTOR_SIZE);

    return end / BLOCK_SECTOR_SIZE - offset / BLOCK_SECTOR_SIZE;
}

static void on_quorum_report_bad(void *opaque, const struct node *child,
                                 enum quorum_op_type type, int errnum,
                                 int64_t offset, int64_t bytes)
{
    struct quorum_report_bad_event data = {
        .type = type,
        .error = errnum ? (char *)g_strerror(errnum) : NULL,
        .node_name = child->name,
        .sector_num = offset / BLOCK_SECTOR_SIZE,
        .sectors_count = sectors(offset, bytes),
    };

    monitor_event(QAPI_EVENT_QUORUM_REPORT_BAD, &data);
}

static void on_quorum_failure(void *opaque, const struct node *quorum,
                              int64_t offset, int64_t bytes)
{
    char *backend = name_of_backend(quorum);
    struct quorum_failure_event data = {
        .reference = *backend ? backend : quorum->name,
        .sector_num = offset / BLOCK_SECTOR_SIZE,
        .sectors_count = sectors(offset, bytes),
    };

    monitor_event(QAPI_EVENT_QUORUM_FAILURE, &data);
}

static void on_export_deleted(void *opaque, const char *id)
{
    struct block_export_deleted_event data = {.id = (char *)id};

    monitor_event(QAPI_EVENT_BLOCK_EXPORT_DELETED, &data);
}

/* ---- the machine ---- */

static void on_runstate(void *opaque, bool running, enum run_state state)
{
    /* The end of the program has an event of its own. */
    if (state != RUN_STATE_SHUTDOWN) {
        monitor_event(running ? QAPI_EVENT_RESUME : QAPI_EVENT_STOP, NULL);
    }
}

static struct block_listener block_events = {
    .job_status = on_job_status,
    .job_completed = on_job_completed,
    .job_cancelled = on_job_cancelled,
    .job_ready = on_job_ready,
    .job_pending = on_job_pending,
    .job_error = on_job_error,
    .io_error = on_io_error,
    .image_corrupted = on_image_corrupted,
    .write_threshold = on_write_threshold,
    .quorum_report_bad = on_quorum_report_bad,
    .quorum_failure = on_quorum_failure,
    .export_deleted = on_export_deleted,
};

static struct runstate_listener machine_events = {
    .changed = on_runstate,
    .order = RUNSTATE_MONITORS,
};

void block_events_begin(void)
{
    block_listener_add(&block_events);
    runstate_listener_add(&machine_events);
}

void block_events_end(void)
{
    runstate_listener_remove(&machine_events);
    block_listener_remove(&block_events);
}
