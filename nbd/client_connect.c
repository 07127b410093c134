/*
 * From an address to a connection that is ready for requests, and back to one
 * when it is lost.
 *
 * libnbd negotiates in option mode, so that a refusal of the export can be told
 * from one of the connection. What the server then says of the export is not
 * believed before it is checked; on a connection after the first it must go on
 * being the same disk. One coroutine connects at a time, on the node's loop,
 * and only because a request wants it: an idle or drained node does nothing.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "block/types.h"
#include "nbd/client.h"
#include "util/error.h"
#include "util/range.h"

#define SECOND            INT64_C(1000000000)
#define PAUSE_NS          (SECOND / 100)
#define MAX_PAUSE_NS      (SECOND / 2)
/* When patience has ended, a request waits no longer than this for an attempt,
 * and there is one in this time. */
#define ATTEMPT_NS        SECOND
#define MAX_BLOCK         (INT64_C(1) << 20)
#define DEFAULT_MAX_BLOCK (INT64_C(32) << 20)
#define MAX_NAME          4096 /* NBD protocol, "String values" */
#define SERVER_SAYS       "server error message: "

int64_t nbd_client_deadline(uint32_t seconds)
{
    return seconds ? loop_now_ns(loop_current()) + seconds * SECOND : 0;
}

bool nbd_client_is_late(const struct nbd_client *c)
{
    return c->deadline_ns && loop_now_ns(loop_current()) >= c->deadline_ns;
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

static const char *context_of(const struct nbd_client *c)
{
    const char *other = c->options->u.nbd.x_dirty_bitmap;

    return other ? other : LIBNBD_CONTEXT_BASE_ALLOCATION;
}

static const char *export_of(const struct nbd_client *c)
{
    const char *name = c->options->u.nbd.export;

    return name ? name : "";
}

/* ---- what the server says of the export ---- */

static bool has(int answer)
{
    return answer > 0;
}

static int64_t block_size(struct nbd_handle *h, int which)
{
    return nbd_get_block_size(h, which);
}

static bool check_blocks(struct nbd_export_info *info, GError **error)
{
    if (!info->min_block) {
        /* Servers that do not say came before the question. */
        info->min_block =
            is_aligned(info->bytes, BLOCK_SECTOR_SIZE) ? BLOCK_SECTOR_SIZE : 1;
    }
    if (info->min_block < 0 || !is_power_of_2(info->min_block) ||
        info->min_block > MAX_BLOCK) {
        return error_set(error, "Server's minimum block size is %" PRId64,
                         info->min_block);
    }
    if (!is_aligned(info->bytes, info->min_block)) {
        return error_set(
            error,
            "Export length %" PRId64
            " is not a multiple of the minimum block size %" PRId64,
            info->bytes, info->min_block);
    }
    if (info->max_block < 0 || info->opt_block < 0 ||
        (info->max_block && info->max_block < info->min_block)) {
        return error_set(error, "Server's maximum block size is %" PRId64,
                         info->max_block);
    }
    int64_t max = min_i64(info->max_block ? info->max_block : INT64_MAX,
                          DEFAULT_MAX_BLOCK);

    info->max_block = align_down(max, info->min_block);
    return true;
}

static bool take_info(struct nbd_client *c, struct nbd_export_info *info,
                      GError **error)
{
    struct nbd_handle *h = c->handle;

    *info = (struct nbd_export_info){
        .bytes = nbd_get_size(h),
        .min_block = block_size(h, LIBNBD_SIZE_MINIMUM),
        .opt_block = block_size(h, LIBNBD_SIZE_PREFERRED),
        .max_block = block_size(h, LIBNBD_SIZE_MAXIMUM),
        .read_only = has(nbd_is_read_only(h)),
        .can_flush = has(nbd_can_flush(h)),
        .can_fua = has(nbd_can_fua(h)),
        .can_trim = has(nbd_can_trim(h)),
        .can_zero = has(nbd_can_zero(h)),
        .can_fast_zero = has(nbd_can_fast_zero(h)),
        .has_status = has(nbd_can_meta_context(h, context_of(c))),
    };
    if (info->bytes < 0 || info->bytes > BLOCK_MAX_LENGTH) {
        return error_set(error, "Export is too large");
    }
    if (!info->has_status && c->options->u.nbd.x_dirty_bitmap) {
        return error_set(error, "Server has no metadata context '%s'",
                         context_of(c));
    }
    return check_blocks(info, error);
}

/* The next connection must go on where the last one was. */
static bool check_same(const struct nbd_export_info *was,
                       const struct nbd_export_info *is, GError **error)
{
    if (is->bytes != was->bytes) {
        return error_set(error,
                         "Export has %" PRId64 " bytes now, and had %" PRId64,
                         is->bytes, was->bytes);
    }
    if (is->min_block > was->min_block || is->max_block < was->max_block) {
        return error_set(error,
                         "Server's block sizes are stricter than before");
    }
    return !is->read_only || was->read_only ||
           error_set(error, "Export has become read-only");
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

    if (strlen(export_of(c)) > MAX_NAME || strlen(context_of(c)) > MAX_NAME) {
        return error_set(error, "export name too long to send to server");
    }
    if (nbd_set_opt_mode(c->handle, true) < 0 ||
        nbd_set_export_name(c->handle, export_of(c)) < 0 ||
        nbd_add_meta_context(c->handle, context_of(c)) < 0 ||
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
           take_info(c, info, error);
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

bool co_nbd_client_connect_first(struct nbd_client *c, GError **error)
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
    if (!check_same(&c->info, &info, &error)) {
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
    if (now < c->next_attempt_ns) {
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
