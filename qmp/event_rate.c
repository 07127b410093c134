/*
 * The rate of events.
 *
 * Events of one kind about one thing are an entry, which is there for as long
 * as another event would have to wait: a second after one was sent. Main loop.
 */
#include "event_rate.h"

#include <string.h>
#include <sys/queue.h>
#include "aio/timer.h"
#include "session.h"

#define INTERVAL_NS INT64_C(1000000000)

struct entry {
    enum qapi_event event;
    char *about; /* or NULL: there is one for all */
    void *data;  /* of the last one, if any is held */
    int64_t time_us;
    event_emit_fn *emit;
    struct timer timer;
    LIST_ENTRY(entry) link;
};

static LIST_HEAD(, entry) entries = LIST_HEAD_INITIALIZER(entries);

static bool is_limited(enum qapi_event event, const void *data,
                       const char **about)
{
    *about = NULL;
    if (event == QAPI_EVENT_QUORUM_REPORT_BAD) {
        *about = ((const struct quorum_report_bad_event *)data)->node_name;
        return true;
    }
    return event == QAPI_EVENT_QUORUM_FAILURE;
}

static void drop(struct entry *e)
{
    timer_cancel(&e->timer);
    LIST_REMOVE(e, link);
    qapi_free(qapi_events[e->event].data, e->data);
    g_free(e->about);
    g_free(e);
}

static void second_is_over(void *opaque)
{
    struct entry *e = opaque;

    if (!e->data) {
        drop(e);
        return;
    }
    e->emit(e->event, e->data, e->time_us);
    qapi_free(qapi_events[e->event].data, e->data);
    e->data = NULL;
    timer_arm(&e->timer, INTERVAL_NS);
}

static struct entry *find(enum qapi_event event, const char *about)
{
    struct entry *e;

    LIST_FOREACH (e, &entries, link) {
        if (e->event == event && !g_strcmp0(e->about, about)) {
            return e;
        }
    }
    return NULL;
}

bool event_rate_hold(enum qapi_event event, const void *data, int64_t time_us,
                     event_emit_fn *emit)
{
    const char *about;

    if (!is_limited(event, data, &about)) {
        return false;
    }
    struct entry *e = find(event, about);
    if (e) {
        qapi_free(qapi_events[event].data, e->data);
        e->data = qapi_clone(qapi_events[event].data, data);
        e->time_us = time_us;
        return true;
    }
    e = g_new0(struct entry, 1);
    e->event = event;
    e->about = g_strdup(about);
    e->emit = emit;
    timer_init(&e->timer, monitors_main_loop(), second_is_over, e);
    timer_arm(&e->timer, INTERVAL_NS);
    LIST_INSERT_HEAD(&entries, e, link);
    return false;
}

void event_rate_end(void)
{
    while (!LIST_EMPTY(&entries)) {
        drop(LIST_FIRST(&entries));
    }
}
