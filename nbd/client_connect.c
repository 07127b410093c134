/*
 * From an address to a connection that is ready for requests, and back to one
 * when it is lost.
 *
 * libnbd negotiates in option mode, so that a refusal of the export can be told
 * from one of the connection. On a connection after the first the export must
 * go on being the same disk. One coroutine connects at a time, on the node's
 * loop, and only because a request wants it: an idle or drained node does
 * nothing.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "nbd/client.h"
#include "util/error.h"
#include "util/range.h"

#define SECOND       INT64_C(1000000000)
#define PAUSE_NS     (SECOND / 100)
#define MAX_PAUSE_NS (SECOND / 2)
/* When patience has ended, a request waits no longer than this for an attempt,
 * and there is one in this time. */
#define ATTEMPT_NS   SECOND
#define MAX_NAME     4096 /* NBD protocol, "String values" */
#define SERVER_SAYS  "server error message: "

int64_t nbd_client_deadline(uint32_t seconds)
{
    return seconds ? loop_now_ns(loop_current()) + seconds * SECOND : 0;
}

bool nbd_client_is_late(const struct nbd_client *c)
{
    return c->given_up ||
           (c->deadline_ns && loop_now_ns(loop_current()) >= c->deadline_ns);
}

void nbd_client_give_up(struct nbd_client *c)
{
    c->given_up = true;
    c->patience_end_ns = 0;
    co_sleep_wake(&c->event);
}

bool co_nbd_client_wait(struct nbd_client *c)
{
    if (nbd_client_is_late(c)) {
        return false;
    }
    co_sleep_wait(&c->event, c->deadline_ns
                                 ? c->deadline_ns - loop_now_ns(loop_current())
                                 : -1);
    return true;
}

const char *nbd_client_context(const struct nbd_client *c)
{
    const char *other = c->options->u.nbd.x_dirty_bitmap;

    return other ? other : LIBNBD_CONTEXT_BASE_ALLOCATION;
}

static const char *export_of(const struct nbd_client *c)
{
    const char *name = c->options->u.nbd.export;

    return name ? name : "";
}

/* ---- the handshake ---- */

struct option_reply {
    bool done;
    int err;
};

static int on_option(void *opaque, int *error)
{
    struct option_reply *reply = opaque;

    reply->done = true;
    reply->err = *error;
    return 1;
}

/* The only way to what the server says about a refusal. */
static int on_debug(void *opaque, const char *context, const char *message)
{
    struct nbd_client *c = opaque;
    const char *said = strstr(message, SERVER_SAYS);

    if (said) {
        g_free(c->why);
        c->why = g_strdup(said + strlen(SERVER_SAYS));
    }
    return 0;
}

static bool is_alive(const struct nbd_client *c)
{
    return !nbd_aio_is_dead(c->handle) && !nbd_aio_is_closed(c->handle);
}

static bool handshake_failed(const struct nbd_client *c, GError **error)
{
    if (nbd_client_is_late(c)) {
        return error_set(error, "NBD server at '%s' does not answer",
                         c->server);
    }
    return error_set(error, "NBD server at '%s': handshake failed: %s",
                     c->server, c->why ? c->why : "the server hung up");
}

static bool co_greeting(struct nbd_client *c, GError **error)
{
    nbd_client_watch(c);
    while (nbd_aio_is_connecting(c->handle)) {
        if (!co_nbd_client_wait(c)) {
            break;
        }
    }
    if (!is_alive(c) || nbd_aio_is_connecting(c->handle)) {
        return handshake_failed(c, error);
    }
    return true;
}

static bool export_refused(const struct nbd_client *c, int err, GError **error)
{
    if (err == ENOENT) {
        error_set(error, "Requested export not available");
    } else {
        error_set_errno(error, err, "Server refuses export '%s'", export_of(c));
    }
    if (c->why) {
        error_add_hint(error, "server reported: %s", c->why);
    }
    return false;
}

static bool co_go(struct nbd_client *c, GError **error)
{
    struct option_reply reply = {0};
    nbd_completion_callback done = {.callback = on_option, .user_data = &reply};

    if (nbd_aio_is_ready(c->handle)) {
        /* A server of the oldest kind, with one export that has no name. */
        return !*export_of(c) ||
               error_set(error, "Server does not support export names");
    }
    g_clear_pointer(&c->why, g_free);
    if (nbd_aio_opt_go(c->handle, done) < 0) {
        nbd_client_note_error(c);
        return handshake_failed(c, error);
    }
    nbd_client_watch(c);
    while (!reply.done && is_alive(c)) {
        if (!co_nbd_client_wait(c)) {
            return handshake_failed(c, error);
        }
    }
    if (!is_alive(c)) {
        return handshake_failed(c, error);
    }
    return nbd_aio_is_ready(c->handle) || export_refused(c, reply.err, error);
}

static bool configure(struct nbd_client *c, GError **error)
{
    nbd_debug_callback debug = {.callback = on_debug, .user_data = c};

    if (strlen(export_of(c)) > MAX_NAME ||
        strlen(nbd_client_context(c)) > MAX_NAME) {
        return error_set(error, "export name too long to send to server");
    }
    if (nbd_set_opt_mode(c->handle, true) < 0 ||
        nbd_set_export_name(c->handle, export_of(c)) < 0 ||
        nbd_add_meta_context(c->handle, nbd_client_context(c)) < 0 ||
        nbd_set_debug_callback(c->handle, debug) < 0 ||
        nbd_set_debug(c->handle, true) < 0) {
        return error_set(error, "%s", nbd_get_error());
    }
    return true;
}

/* Takes the socket over. */
static bool co_handshake(struct nbd_client *c, int socket,
                         struct nbd_export_info *info, GError **error)
{
    if (!configure(c, error)) {
        close(socket);
        return false;
    }
    g_clear_pointer(&c->why, g_free);
    if (nbd_aio_connect_socket(c->handle, socket) < 0) {
        nbd_client_note_error(c);
        return handshake_failed(c, error);
    }
    return co_greeting(c, error) && co_go(c, error) &&
           nbd_client_take_info(c, info, error);
}

/* ---- connecting ---- */

/* *serious: another attempt would end the same way. */
static bool co_connect(struct nbd_client *c, struct nbd_export_info *info,
                       bool *serious, GError **error)
{
    int socket = co_nbd_client_socket(c, error);

    *serious = false;
    if (socket < 0) {
        return false;
    }
    c->handle = nbd_create();
    if (!c->handle) {
        close(socket);
        return error_set(error, "%s", nbd_get_error());
    }
    if (!co_handshake(c, socket, info, error)) {
        *serious = is_alive(c) && !nbd_client_is_late(c);
        nbd_client_drop(c);
        return false;
    }
    nbd_set_debug(c->handle, false);
    g_clear_pointer(&c->why, g_free);
    return true;
}

static bool co_connect_first(struct nbd_client *c, GError **error)
{
    int64_t pause = PAUSE_NS;
    bool serious;

    c->deadline_ns = nbd_client_deadline(c->options->u.nbd.open_timeout);
    for (;;) {
        GError *why = NULL;

        if (co_connect(c, &c->info, &serious, &why)) {
            c->negotiated = true;
            return true;
        }
        if (serious || !c->deadline_ns || nbd_client_is_late(c)) {
            g_propagate_error(error, why);
            return false;
        }
        g_error_free(why);
        co_sleep_ns(pause);
        pause = min_i64(2 * pause, MAX_PAUSE_NS);
    }
}

bool co_nbd_client_open(struct nbd_client *c, GError **error)
{
    c->connecting = true;
    bool ok = co_connect_first(c, error);

    c->connecting = false;
    return ok;
}

/* One attempt; the connection is that of the same export. */
static bool co_connect_again(struct nbd_client *c)
{
    struct nbd_export_info info;
    g_autoptr(GError) error = NULL;
    bool serious;

    if (!co_connect(c, &info, &serious, &error)) {
        g_info("%s", error->message);
        return false;
    }
    if (!nbd_export_is_same(&c->info, &info, &error)) {
        g_warning("NBD server at '%s': %s", c->server, error->message);
        nbd_client_drop(c);
        return false;
    }
    c->info = info;
    c->negotiated = true;
    g_info("NBD server at '%s': connected again", c->server);
    return true;
}

static bool co_try_again(struct nbd_client *c)
{
    int64_t now = loop_now_ns(loop_current());
    int64_t pause = PAUSE_NS;

    while (now < c->patience_end_ns) {
        c->deadline_ns = c->patience_end_ns;
        if (co_connect_again(c)) {
            return true;
        }
        now = loop_now_ns(loop_current());
        if (now < c->patience_end_ns) {
            co_sleep_ns(min_i64(pause, c->patience_end_ns - now));
            pause = min_i64(2 * pause, MAX_PAUSE_NS);
        }
        now = loop_now_ns(loop_current());
    }
    if (now < c->next_attempt_ns || c->given_up) {
        return false;
    }
    c->deadline_ns = now + ATTEMPT_NS;
    bool ok = co_connect_again(c);

    c->next_attempt_ns = loop_now_ns(loop_current()) + PAUSE_NS;
    return ok;
}

bool co_nbd_client_reconnect(struct nbd_client *c)
{
    if (c->connecting) {
        while (c->connecting) {
            co_queue_wait(&c->connected);
        }
        return c->negotiated;
    }
    c->connecting = true;
    co_try_again(c);
    c->connecting = false;
    co_queue_wake_all(&c->connected);
    return c->negotiated;
}
