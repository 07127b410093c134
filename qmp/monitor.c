/*
 * Sessions: greeting, negotiation, one command at a time, events in between.
 *
 * Requests are read only as fast as they are executed: without out-of-band
 * execution the next one is not even cut out of the input before the one that
 * runs has been answered; with it, up to MONITOR_QUEUE may wait, and one that
 * came with exec-oob overtakes them. When a client leaves, its command runs to
 * its end and the answer is dropped; the commands of the next client wait until
 * then. Everything runs on the main loop.
 */
#include "qmp/monitor.h"

#include <assert.h>
#include <json-c/json.h>

#include "aio/loop.h"
#include "aio/mailbox.h"
#include "block/objects.h"
#include "block/place.h"
#include "channel.h"
#include "event_rate.h"
#include "framer.h"
#include "json_print.h"
#include "qapi/json.h"
#include "request.h"
#include "session.h"

#define MONITOR_QUEUE 8

struct monitor {
    char *id;
    struct channel *channel;
    bool pretty;
    bool negotiated, oob;
    unsigned client; /* counts them: an answer goes to the right one */
    struct framer framer;
    GString *input; /* received, and not cut into texts yet */
    size_t taken;   /* of input */
    struct request_list requests;
    unsigned queued;
    struct coroutine *running; /* executes requests */
    unsigned oob_running;
    TAILQ_ENTRY(monitor) link;
};

static struct {
    struct loop *main_loop;
    TAILQ_HEAD(, monitor) list;
    void (*quit)(void *opaque);
    void *quit_opaque;
    bool stopped;
} monitors = {.list = TAILQ_HEAD_INITIALIZER(monitors.list)};

struct loop *monitors_main_loop(void)
{
    return monitors.main_loop;
}

void monitors_set_quit(void (*quit)(void *opaque), void *opaque)
{
    monitors.quit = quit;
    monitors.quit_opaque = opaque;
}

void monitors_quit(void)
{
    if (monitors.quit) {
        monitors.quit(monitors.quit_opaque);
    }
}

struct monitor *monitor_current(void)
{
    struct coroutine *self = co_self();
    struct monitor *m;

    TAILQ_FOREACH (m, &monitors.list, link) {
        if (self && m->running == self) {
            break;
        }
    }
    return m;
}

void monitor_set_negotiated(struct monitor *m, bool oob)
{
    m->negotiated = true;
    m->oob = oob;
}

/* ---- output ---- */

static void monitor_put(struct monitor *m, struct json_object *message)
{
    GString *out = channel_output(m->channel);

    json_print(out, message, m->pretty);
    g_string_append(out, "\r\n");
}

void monitors_broadcast(struct json_object *message)
{
    struct monitor *m;

    TAILQ_FOREACH (m, &monitors.list, link) {
        if (m->negotiated) {
            monitor_put(m, message);
            channel_flush_soon(m->channel);
        }
    }
}

static void monitor_greet(struct monitor *m)
{
    qapi_auto(version_info) version = qmp_version_new();
    struct json_object *qmp = json_object_new_object();
    struct json_object *capabilities = json_object_new_array();
    struct json_object *greeting = json_object_new_object();

    json_object_array_add(capabilities, json_object_new_string("oob"));
    json_object_object_add(qmp, "version",
                           qapi_encode(&qapi_type_version_info, version));
    json_object_object_add(qmp, "capabilities", capabilities);
    json_object_object_add(greeting, "QMP", qmp);
    monitor_put(m, greeting);
    json_object_put(greeting);
    channel_flush(m->channel);
}

/* ---- input ---- */

static enum request_rules monitor_rules(const struct monitor *m)
{
    if (!m->negotiated) {
        return REQUEST_NEGOTIATING;
    }
    return m->oob ? REQUEST_OOB : REQUEST_IN_BAND;
}

/* Cuts the next request out of the input; NULL if there is no whole one. */
static struct request *monitor_parse(struct monitor *m)
{
    GError *error = NULL;
    struct json_object *json = NULL;
    size_t used = 0;
    enum framer_result result =
        framer_feed(&m->framer, m->input->str + m->taken,
                    m->input->len - m->taken, &used, &error);

    m->taken += used;
    if (m->taken == m->input->len) {
        g_string_truncate(m->input, 0);
        m->taken = 0;
    }
    if (result == FRAMER_MORE) {
        return NULL;
    }
    if (result == FRAMER_TEXT) {
        const GString *text = m->framer.text;
        /* What is no object is refused alike, and json-c has none for null. */
        json = text->str[0] == '{'
                   ? qapi_json_parse(text->str, text->len, &error)
                   : json_object_new_array();
    }
    return request_new(json, error, monitor_rules(m));
}

static bool monitor_wants_input(const struct monitor *m)
{
    return !monitors.stopped && !channel_is_congested(m->channel) &&
           (m->oob ? m->queued < MONITOR_QUEUE : !m->queued && !m->running);
}

static void monitor_answer(struct monitor *m, struct request *r,
                           enum request_rules rules)
{
    unsigned client = m->client;
    struct json_object *answer = co_request_execute(r, rules);

    if (client == m->client && channel_is_open(m->channel)) {
        monitor_put(m, answer);
        channel_flush(m->channel);
    }
    json_object_put(answer);
    request_free(r);
}

struct oob_call {
    struct monitor *m;
    struct request *request;
};

static void monitor_run_oob(void *opaque)
{
    struct oob_call *call = opaque;
    struct monitor *m = call->m;

    m->oob_running++;
    monitor_answer(m, call->request, REQUEST_OOB);
    m->oob_running--;
    g_free(call);
}

/* Takes requests from the input as long as there is room for them. */
static void monitor_fill(struct monitor *m)
{
    while (monitor_wants_input(m)) {
        struct request *r = monitor_parse(m);
        if (!r) {
            break;
        }
        if (r->oob) {
            struct oob_call *call = g_new(struct oob_call, 1);
            *call = (struct oob_call){.m = m, .request = r};
            co_enter(co_create(monitor_run_oob, call));
            continue;
        }
        TAILQ_INSERT_TAIL(&m->requests, r, link);
        m->queued++;
    }
    channel_set_reading(m->channel, monitor_wants_input(m));
}

static void monitor_run(void *opaque)
{
    struct monitor *m = opaque;
    struct request *r;

    while ((r = TAILQ_FIRST(&m->requests))) {
        TAILQ_REMOVE(&m->requests, r, link);
        m->queued--;
        m->running = co_self();
        monitor_answer(m, r, monitor_rules(m));
        m->running = NULL;
        monitor_fill(m);
        if (!TAILQ_EMPTY(&m->requests)) {
            /* Whoever sends many at a time is not alone here. */
            m->running = co_self();
            co_pause();
            m->running = NULL;
            monitor_fill(m); /* perhaps another client's */
        }
    }
}

static void monitor_go_on(struct monitor *m)
{
    monitor_fill(m);
    if (!m->running && !TAILQ_EMPTY(&m->requests)) {
        co_enter(co_create(monitor_run, m));
    }
}

/* ---- the channel's news ---- */

static void monitor_opened(void *opaque)
{
    struct monitor *m = opaque;

    m->client++;
    monitor_greet(m);
    monitor_go_on(m);
}

static void monitor_closed(void *opaque)
{
    struct monitor *m = opaque;
    struct request *r;

    m->negotiated = m->oob = false;
    m->client++;
    framer_reset(&m->framer);
    g_string_truncate(m->input, 0);
    m->taken = 0;
    while ((r = TAILQ_FIRST(&m->requests))) {
        TAILQ_REMOVE(&m->requests, r, link);
        m->queued--;
        request_free(r);
    }
}

static void monitor_received(void *opaque, const char *data, size_t length)
{
    struct monitor *m = opaque;

    g_string_append_len(m->input, data, (gssize)length);
    monitor_go_on(m);
}

static void monitor_drained(void *opaque)
{
    monitor_go_on(opaque);
}

static const struct channel_ops monitor_channel_ops = {
    .opened = monitor_opened,
    .closed = monitor_closed,
    .received = monitor_received,
    .drained = monitor_drained,
};

/* ---- life ---- */

struct monitor *monitor_new(const char *id,
                            const struct monitor_channel *channel, bool pretty,
                            GError **error)
{
    struct monitor *m = g_new0(struct monitor, 1);

    assert(loop_current() == monitors.main_loop);
    m->channel = channel_new(monitors.main_loop, channel, &monitor_channel_ops,
                             m, error);
    if (!m->channel) {
        g_free(m);
        return NULL;
    }
    m->id = g_strdup(id);
    m->pretty = pretty;
    m->input = g_string_new(NULL);
    framer_init(&m->framer);
    TAILQ_INIT(&m->requests);
    TAILQ_INSERT_TAIL(&monitors.list, m, link);
    if (channel_is_open(m->channel)) {
        monitor_opened(m);
    }
    return m;
}

char *monitor_address(const struct monitor *monitor)
{
    return channel_address(monitor->channel);
}

static void listen_to_graph(void *opaque)
{
    block_events_begin();
}

static void leave_graph(void *opaque)
{
    block_events_end();
}

void monitors_begin(struct loop *main_loop, struct loop *graph_loop)
{
    monitors.main_loop = main_loop;
    graph_set_home(graph_loop);
    monitors.stopped = false;
    loop_call_blocking(graph_loop, listen_to_graph, NULL);
}

bool monitors_stop(void)
{
    struct monitor *m;
    bool idle = true;

    monitors.stopped = true;
    TAILQ_FOREACH (m, &monitors.list, link) {
        channel_set_reading(m->channel, false);
        idle =
            idle && !m->running && !m->oob_running && TAILQ_EMPTY(&m->requests);
    }
    return idle;
}

void monitors_end(void)
{
    struct monitor *m;

    loop_call_blocking(graph_home(), leave_graph, NULL);
    /* Mail of the last events has arrived by now; it lies in the inbox. */
    loop_pass(monitors.main_loop, false);
    event_rate_end();
    while ((m = TAILQ_FIRST(&monitors.list))) {
        assert(!m->running && !m->oob_running);
        channel_free(m->channel);
        monitor_closed(m);
        TAILQ_REMOVE(&monitors.list, m, link);
        framer_clear(&m->framer);
        g_string_free(m->input, TRUE);
        g_free(m->id);
        g_free(m);
    }
    objects_end();
    graph_set_home(NULL);
}
