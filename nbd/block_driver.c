/*
 * nbd: a disk that an NBD server exports.
 *
 * Requests become commands of the protocol one to one, on one connection
 * (client.c); limits are the server's. Scattered memory goes through a buffer,
 * as libnbd takes one piece. Names of exports look as other programs know them.
 * On the node's loop, from which the client's socket is taken while the node is
 * drained and idle, so that it can move.
 */
#include <errno.h>
#include <string.h>

#include "block/driver.h"
#include "block/node.h"
#include "block/request.h"
#include "nbd/client.h"
#include "util/error.h"
#include "util/range.h"

struct nbd_state {
    struct nbd_client *client;
};

static struct nbd_client *client_of(const struct node *node)
{
    const struct nbd_state *s = node->state;

    return s->client;
}

/* ---- life ---- */

static bool check_writable(const struct nbd_client *c, bool *read_only,
                           bool auto_read_only, GError **error)
{
    if (!c->info.read_only || *read_only) {
        return true;
    }
    if (!auto_read_only) {
        return error_set(error, "Export is read-only");
    }
    *read_only = true;
    return true;
}

static void refresh_limits(struct node *node)
{
    const struct nbd_export_info *info = &client_of(node)->info;
    int64_t most = align_down(INT32_MAX, info->min_block);

    node->limits = (struct block_limits){
        .request_alignment = info->min_block,
        .max_transfer = info->max_block,
        .opt_transfer = info->opt_block,
        .max_pdiscard = most,
        .max_pwrite_zeroes = info->max_block,
    };
}

/* A node that is not open yet, or any more, has no client. */
static void give_up(struct node *node)
{
    if (client_of(node)) {
        nbd_client_give_up(client_of(node));
    }
}

static void quiesce(struct node *node, bool quiet)
{
    if (client_of(node)) {
        nbd_client_quiesce(client_of(node), quiet);
    }
}

static void drain_begin(struct node *node)
{
    quiesce(node, true);
}

static void drain_end(struct node *node)
{
    quiesce(node, false);
}

static void co_close(struct node *node)
{
    struct nbd_state *s = node->state;

    nbd_client_close(s->client);
    s->client = NULL;
}

static bool co_open(struct node *node, const struct blockdev_options *options,
                    GError **error)
{
    struct nbd_state *s = node->state;

    if (options->u.nbd.tls_creds) {
        return error_set(error, "No TLS credentials with id '%s'",
                         options->u.nbd.tls_creds);
    }
    s->client = nbd_client_new(options);
    if (node->drained) {
        drain_begin(node); /* it began before there was a client */
    }
    if (!co_nbd_client_open(s->client, error) ||
        !check_writable(s->client, &node->read_only, node->auto_read_only,
                        error)) {
        co_close(node);
        return false;
    }
    node->length = s->client->info.bytes;
    refresh_limits(node);
    return true;
}

static bool co_reopen_prepare(struct node *node, const struct node_reopen *to,
                              GError **error)
{
    return check_writable(client_of(node), &to->settings->read_only,
                          to->settings->auto_read_only, error);
}

/* ---- requests ---- */

/* What libnbd sends beyond the end is nothing. */
static int check_end(const struct node *node, int64_t offset, int64_t bytes)
{
    return range_within(offset, bytes, client_of(node)->info.bytes) ? 0
                                                                    : -ENOSPC;
}

/* A command that changes the export. */
static int co_change(struct node *node, const struct nbd_command *cmd)
{
    struct nbd_client *c = client_of(node);
    int ret = check_end(node, cmd->offset, cmd->bytes);

    if (ret < 0) {
        return ret;
    }
    c->changes++;
    nbd_extents_clear(&c->known);
    ret = co_nbd_client_do(c, cmd);
    c->changes++;
    nbd_extents_clear(&c->known);
    return ret;
}

static int co_flush(struct node *node)
{
    struct nbd_client *c = client_of(node);

    /* A server without the command has nothing to flush. */
    return c->info.can_flush
               ? co_nbd_client_do(c, &(struct nbd_command){.op = NBD_OP_FLUSH})
               : 0;
}

/* The same with REQ_FUA, by a flush if the server has no better way. */
static int co_change_fua(struct node *node, struct nbd_command *cmd,
                         unsigned flags)
{
    bool can = client_of(node)->info.can_fua;

    if (flags & REQ_FUA && can) {
        cmd->flags |= LIBNBD_CMD_FLAG_FUA;
    }
    int ret = co_change(node, cmd);

    return ret == 0 && flags & REQ_FUA && !can ? co_flush(node) : ret;
}

/* libnbd takes memory in one piece: the request's own, or one in its place,
 * which is to be freed then. NULL: there is no memory. */
static void *one_piece(struct node *node, const struct iov *iov, int64_t bytes,
                       bool *in_place)
{
    struct iovec piece;

    *in_place = iov_export(iov, &piece, 1) == 1;
    return *in_place ? piece.iov_base : io_buffer_try_alloc(node, bytes);
}

static int co_preadv(struct node *node, int64_t offset, int64_t bytes,
                     const struct iov *iov, unsigned flags)
{
    bool in_place;
    struct nbd_command cmd = {
        .op = NBD_OP_READ,
        .offset = offset,
        .bytes = bytes,
        .buffer = one_piece(node, iov, bytes, &in_place),
    };

    if (!cmd.buffer) {
        return -ENOMEM;
    }
    int ret = co_nbd_client_do(client_of(node), &cmd);

    if (ret == 0 && !in_place) {
        iov_from_buf(iov, 0, cmd.buffer, bytes);
    }
    if (!in_place) {
        io_buffer_free(cmd.buffer);
    }
    return ret;
}

static int co_pwritev(struct node *node, int64_t offset, int64_t bytes,
                      const struct iov *iov, unsigned flags)
{
    bool in_place;
    struct nbd_command cmd = {
        .op = NBD_OP_WRITE,
        .offset = offset,
        .bytes = bytes,
        .buffer = one_piece(node, iov, bytes, &in_place),
    };

    if (!cmd.buffer) {
        return -ENOMEM;
    }
    if (!in_place) {
        iov_to_buf(iov, 0, cmd.buffer, bytes);
    }
    int ret = co_change_fua(node, &cmd, flags);

    if (!in_place) {
        io_buffer_free(cmd.buffer);
    }
    return ret;
}

static int co_pwrite_zeroes(struct node *node, int64_t offset, int64_t bytes,
                            unsigned flags)
{
    const struct nbd_export_info *info = &client_of(node)->info;
    struct nbd_command cmd = {
        .op = NBD_OP_ZERO,
        .offset = offset,
        .bytes = bytes,
    };

    if (!info->can_zero || (flags & REQ_NO_FALLBACK && !info->can_fast_zero)) {
        return -ENOTSUP;
    }
    if (!(flags & REQ_MAY_UNMAP)) {
        cmd.flags |= LIBNBD_CMD_FLAG_NO_HOLE;
    }
    if (flags & REQ_NO_FALLBACK) {
        cmd.flags |= LIBNBD_CMD_FLAG_FAST_ZERO;
    }
    return co_change_fua(node, &cmd, flags);
}

static int co_pdiscard(struct node *node, int64_t offset, int64_t bytes)
{
    if (!client_of(node)->info.can_trim) {
        return -ENOTSUP;
    }
    return co_change(node, &(struct nbd_command){
                               .op = NBD_OP_TRIM,
                               .offset = offset,
                               .bytes = bytes,
                           });
}

static int co_block_status(struct node *node, bool want_zero, int64_t offset,
                           int64_t bytes, struct block_status *status)
{
    struct nbd_client *c = client_of(node);
    uint32_t state = 0;
    int ret = 0;

    *status = (struct block_status){
        .flags = BLOCK_OFFSET_VALID | BLOCK_ALLOCATED,
        .bytes = bytes,
        .map = offset,
        .file = node,
    };
    if (c->info.has_status) {
        ret = co_nbd_client_status(c, offset, bytes, &state, &status->bytes);
    }
    if (!(state & LIBNBD_STATE_HOLE)) {
        status->flags |= BLOCK_DATA;
    }
    if (state & LIBNBD_STATE_ZERO) {
        status->flags |= BLOCK_ZERO;
    }
    return ret;
}

/* ---- sizes ---- */

static int64_t co_getlength(struct node *node)
{
    return client_of(node)->info.bytes;
}

/* An export has the size that it has; more room than asked for will do. */
static bool co_truncate(struct node *node, int64_t size, bool exact,
                        enum prealloc_mode prealloc, unsigned flags,
                        GError **error)
{
    int64_t length = client_of(node)->info.bytes;

    if (prealloc != PREALLOC_MODE_OFF) {
        return error_set(error, "Unsupported preallocation mode '%s'",
                         prealloc_mode_str(prealloc));
    }
    if (size == length) {
        return true;
    }
    if (exact) {
        return error_set(error, "Cannot resize NBD nodes");
    }
    return size < length || error_set(error, "Cannot grow NBD nodes");
}

/* ---- names ---- */

static const char *const strong_options[] = {
    "server", "export", "tls-creds", "tls-hostname", "x-dirty-bitmap", NULL,
};

/* An export without a name is not the same as one whose name is empty. */
static char *plain_name(const struct blockdev_options_nbd *o)
{
    const struct socket_address *a = o->server;
    const char *slash = o->export ? "/" : "";
    const char *export = o->export ? o->export : "";

    if (a->type == SOCKET_ADDRESS_TYPE_INET) {
        return g_strdup_printf("nbd://%s:%s%s%s", a->u.inet.host,
                               a->u.inet.port, slash, export);
    }
    if (a->type == SOCKET_ADDRESS_TYPE_UNIX && !a->u.unix_.abstract) {
        return g_strdup_printf("nbd+unix://%s%s?socket=%s", slash, export,
                               a->u.unix_.path);
    }
    return NULL;
}

static void refresh_filename(struct node *node)
{
    const struct blockdev_options_nbd *o = &node->options->u.nbd;
    char *name = plain_name(o);

    g_free(node->filename);
    node->filename = name ? name : node_json_filename(node);
}

static const struct reopen_ops reopen_ops = {
    .co_prepare = co_reopen_prepare,
};

const struct block_driver driver_nbd = {
    .name = "nbd",
    .kind = DRIVER_PROTOCOL,
    .state_size = sizeof(struct nbd_state),
    .writes_fua = true,
    .zeroes_unmap = true,
    .reopen = &reopen_ops,
    .co_open = co_open,
    .co_close = co_close,
    .co_preadv = co_preadv,
    .co_pwritev = co_pwritev,
    .co_pwrite_zeroes = co_pwrite_zeroes,
    .co_pdiscard = co_pdiscard,
    .co_flush = co_flush,
    .co_block_status = co_block_status,
    .co_getlength = co_getlength,
    .co_truncate = co_truncate,
    .drain_begin = drain_begin,
    .drain_end = drain_end,
    .give_up = give_up,
    .strong_options = strong_options,
    .refresh_filename = refresh_filename,
    .refresh_limits = refresh_limits,
};
