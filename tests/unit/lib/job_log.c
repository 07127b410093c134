/*
 * A listener that writes a log.
 */
#include "job_log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <inttypes.h>

#include "block/listener.h"

static GString *log_text;

static void add(const char *what, const struct job *job, const char *rest)
{
    g_string_append_printf(log_text, "%s%s %s%s", log_text->len ? ", " : "",
                           what, job->id, rest);
}

static void on_status(void *opaque, const struct job *job)
{
    add(job_status_str(job->status), job, "");
}

static void add_end(const char *what, const struct job *job)
{
    g_autofree char *rest =
        g_strdup_printf(" %" PRId64 "/%" PRId64 "%s%s", job->progress_current,
                        job->progress_total, job->error ? " " : "",
                        job->error ? job->error : "");
    add(what, job, rest);
}

static void on_completed(void *opaque, const struct job *job)
{
    add_end("COMPLETED", job);
}

static void on_cancelled(void *opaque, const struct job *job)
{
    add("CANCELLED", job, "");
}

static void on_ready(void *opaque, const struct job *job)
{
    add("READY", job, "");
}

static void on_pending(void *opaque, const struct job *job)
{
    add("PENDING", job, "");
}

static void on_error(void *opaque, const struct job *job, bool is_read,
                     enum block_error_action action)
{
    g_autofree char *rest = g_strdup_printf(
        " %s %s", is_read ? "read" : "write", block_error_action_str(action));
    add("ERROR", job, rest);
}

static struct block_listener listener = {
    .job_status = on_status,
    .job_completed = on_completed,
    .job_cancelled = on_cancelled,
    .job_ready = on_ready,
    .job_pending = on_pending,
    .job_error = on_error,
};

void job_log_start(void)
{
    log_text = g_string_new(NULL);
    block_listener_add(&listener);
}

void job_log_stop(void)
{
    block_listener_remove(&listener);
    g_string_free(log_text, true);
}

void job_log_is(const char *expected)
{
    assert_string_equal(log_text->str, expected);
    job_log_forget();
}

void job_log_forget(void)
{
    g_string_truncate(log_text, 0);
}
