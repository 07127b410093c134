/*
 * blkdebug: a filter that fails chosen requests, and limits the rest.
 *
 * The node has a state, a number that starts as 1. Rules wait for an event,
 * something that a format above or the engine announces, and may ask for a
 * state: set-state changes it, inject-error arms itself. An armed rule fails
 * every request that matches its kind and sector, until an event arms others in
 * its place, or with "once" only the first. The event "none" happens once, when
 * the node is opened, so its rules are armed from the start.
 *
 * All rules of one event look at the state as it was before any of them.
 * Breakpoints (breaks.h) come last.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>

#include "aio/coroutine.h"
#include "block/breaks.h"
#include "block/driver.h"
#include "block/drivers/blkdebug_config.h"
#include "block/graph.h"
#include "block/node.h"
#include "block/request.h"
#include "qapi/options.h"
#include "util/error.h"
#include "util/range.h"

#define MAX_ALIGN (INT64_C(1) << 20)

struct state_rule {
    enum blkdebug_event event;
    int64_t state; /* 0: any */
    int64_t new_state;
};

struct error_rule {
    enum blkdebug_event event;
    int64_t state;  /* 0: any */
    unsigned kinds; /* 1 << enum blkdebug_io_type */
    int errnum;
    int64_t offset; /* -1: any */
    bool once, immediately;
    bool armed;
    bool spent; /* "once" has happened */
};

struct blkdebug_state {
    int64_t state;
    struct state_rule *state_rules;
    size_t n_state_rules;
    struct error_rule *error_rules;
    size_t n_error_rules;
    struct breaks breaks;
    unsigned take, unshare;     /* enum perm */
    struct block_limits limits; /* as given; 0: the child's */
};

/* ---- events and rules ---------------------------------------------------- */

static void happen(struct blkdebug_state *s, enum blkdebug_event event)
{
    int64_t state = s->state;
    bool first = true;

    for (size_t i = 0; i < s->n_error_rules; i++) {
        struct error_rule *r = &s->error_rules[i];
        if (r->event != event || r->spent || (r->state && r->state != state)) {
            continue;
        }
        for (size_t k = 0; first && k < s->n_error_rules; k++) {
            s->error_rules[k].armed = false;
        }
        first = false;
        r->armed = true;
    }
    /* If several match, the first of them has the last word. */
    for (size_t i = s->n_state_rules; i-- > 0;) {
        const struct state_rule *r = &s->state_rules[i];
        if (r->event == event && (!r->state || r->state == state)) {
            s->state = r->new_state;
        }
    }
}

static void co_blkdebug_event(struct node *node, enum blkdebug_event event)
{
    struct blkdebug_state *s = node->state;

    happen(s, event);
    co_breaks_hit(&s->breaks, event);
}

static struct breaks *blkdebug_breaks(struct node *node)
{
    return &((struct blkdebug_state *)node->state)->breaks;
}

static bool hits(const struct error_rule *r, enum blkdebug_io_type kind,
                 int64_t offset, int64_t bytes)
{
    return r->armed && (r->kinds & (1u << kind)) &&
           (r->offset < 0 ||
            (r->offset >= offset && r->offset < offset + bytes));
}

/* 0, or the error that an armed rule has for this request. */
static int co_inject(struct node *node, enum blkdebug_io_type kind,
                     int64_t offset, int64_t bytes)
{
    struct blkdebug_state *s = node->state;

    for (size_t i = 0; i < s->n_error_rules; i++) {
        struct error_rule *r = &s->error_rules[i];
        if (!hits(r, kind, offset, bytes)) {
            continue;
        }
        int errnum = r->errnum;
        bool immediately = r->immediately;
        if (r->once) {
            r->armed = false;
            r->spent = true;
        }
        if (errnum && !immediately) {
            co_pause();
        }
        return -errnum;
    }
    return 0;
}

/* ---- opening ------------------------------------------------------------- */

static bool add_error_rules(struct blkdebug_state *s,
                            const struct blkdebug_inject_error_options_list *l,
                            GError **error)
{
    s->error_rules =
        g_renew(struct error_rule, s->error_rules, s->n_error_rules + l->n);
    for (size_t i = 0; i < l->n; i++) {
        const struct blkdebug_inject_error_options *o = l->items[i];
        unsigned all = (1u << BLKDEBUG_IO_TYPE_BLOCK_STATUS) - 1;
        int64_t offset = -1;

        if (o->has_errno_ && (o->errno_ < 0 || o->errno_ > 4095)) {
            return error_set(error, "Invalid errno %" PRId64, o->errno_);
        }
        if (o->has_sector && o->sector != -1 &&
            !range_mul(o->sector, BLOCK_SECTOR_SIZE, &offset)) {
            return error_set(error, "Invalid sector %" PRId64, o->sector);
        }
        s->error_rules[s->n_error_rules++] = (struct error_rule){
            .event = o->event,
            .state = o->has_state ? o->state : 0,
            .kinds = o->has_iotype ? 1u << o->iotype : all,
            .errnum = o->has_errno_ ? (int)o->errno_ : EIO,
            .offset = offset,
            .once = o->has_once && o->once,
            .immediately = o->has_immediately && o->immediately,
        };
    }
    return true;
}

static void add_state_rules(struct blkdebug_state *s,
                            const struct blkdebug_set_state_options_list *l)
{
    s->state_rules =
        g_renew(struct state_rule, s->state_rules, s->n_state_rules + l->n);
    for (size_t i = 0; i < l->n; i++) {
        const struct blkdebug_set_state_options *o = l->items[i];
        s->state_rules[s->n_state_rules++] = (struct state_rule){
            .event = o->event,
            .state = o->has_state ? o->state : 0,
            .new_state = o->new_state,
        };
    }
}

static unsigned perms_of(const struct block_permission_list *l)
{
    static const unsigned perms[BLOCK_PERMISSION__COUNT] = {
        [BLOCK_PERMISSION_CONSISTENT_READ] = PERM_CONSISTENT_READ,
        [BLOCK_PERMISSION_WRITE] = PERM_WRITE,
        [BLOCK_PERMISSION_WRITE_UNCHANGED] = PERM_WRITE_UNCHANGED,
        [BLOCK_PERMISSION_RESIZE] = PERM_RESIZE,
    };
    unsigned perm = 0;

    for (size_t i = 0; i < l->n; i++) {
        perm |= perms[l->items[i]];
    }
    return perm;
}

/* A limit of the options: 0 is none, else a multiple of unit. */
static bool set_limit(int64_t *limit, const char *name, bool given,
                      int64_t value, int64_t unit, GError **error)
{
    if (!given || !value) {
        return true;
    }
    if (value < 0 || value > INT32_MAX || value % unit) {
        return error_set(error, "Cannot meet constraints with %s %" PRId64,
                         name, value);
    }
    *limit = value;
    return true;
}

static bool set_limits(struct node *node,
                       const struct blockdev_options_blkdebug *o,
                       GError **error)
{
    struct blkdebug_state *s = node->state;
    struct block_limits *l = &s->limits;
    int64_t child_align = node->file->child->limits.request_alignment;

    if (o->has_align && o->align &&
        (o->align > MAX_ALIGN || !is_power_of_2(o->align))) {
        return error_set(error, "Cannot meet constraints with align %" PRId64,
                         o->align);
    }
    l->request_alignment =
        max_i64(max_i64(child_align, 1), o->has_align ? o->align : 1);
    int64_t align = l->request_alignment;
    return set_limit(&l->max_transfer, "max-transfer", o->has_max_transfer,
                     o->max_transfer, align, error) &&
           set_limit(&l->pwrite_zeroes_align, "opt-write-zero",
                     o->has_opt_write_zero, o->opt_write_zero, align, error) &&
           set_limit(&l->max_pwrite_zeroes, "max-write-zero",
                     o->has_max_write_zero, o->max_write_zero,
                     max_i64(l->pwrite_zeroes_align, align), error) &&
           set_limit(&l->pdiscard_align, "opt-discard", o->has_opt_discard,
                     o->opt_discard, align, error) &&
           set_limit(&l->max_pdiscard, "max-discard", o->has_max_discard,
                     o->max_discard, max_i64(l->pdiscard_align, align), error);
}

static void free_rules(struct blkdebug_state *s)
{
    g_free(s->error_rules);
    g_free(s->state_rules);
}

/* Those of the file come first. */
static bool co_add_rules(struct blkdebug_state *s,
                         const struct blockdev_options_blkdebug *o,
                         GError **error)
{
    struct blkdebug_rules file = {0};
    bool ok = !o->config || co_blkdebug_config_read(o->config, &file, error);

    if (ok) {
        add_state_rules(s, &file.states);
        ok = add_error_rules(s, &file.errors, error);
    }
    if (ok && o->has_set_state) {
        add_state_rules(s, &o->set_state);
    }
    blkdebug_rules_clear(&file);
    return ok && (!o->has_inject_error ||
                  add_error_rules(s, &o->inject_error, error));
}

static bool co_blkdebug_open(struct node *node,
                             const struct blockdev_options *options,
                             GError **error)
{
    const struct blockdev_options_blkdebug *o = &options->u.blkdebug;
    struct blkdebug_state *s = node->state;

    s->take = o->has_take_child_perms ? perms_of(&o->take_child_perms) : 0;
    s->unshare =
        o->has_unshare_child_perms ? perms_of(&o->unshare_child_perms) : 0;
    s->state = 1;
    if (!co_add_rules(s, o, error) ||
        !co_node_open_child(node, o->image, "image",
                            ROLE_FILTERED | ROLE_PRIMARY, error) ||
        !set_limits(node, o, error)) {
        free_rules(s);
        return false;
    }
    node->length = node->file->child->length;
    breaks_init(&s->breaks);
    happen(s, BLKDEBUG_EVENT_NONE);
    return true;
}

static void co_blkdebug_close(struct node *node)
{
    breaks_free(blkdebug_breaks(node));
    free_rules(node->state);
}

static void override(int64_t *limit, int64_t given)
{
    if (given) {
        *limit = given;
    }
}

static void blkdebug_refresh_limits(struct node *node)
{
    const struct block_limits *given =
        &((struct blkdebug_state *)node->state)->limits;
    struct block_limits *l = &node->limits;

    *l = node->file->child->limits;
    l->request_alignment =
        max_i64(l->request_alignment, given->request_alignment);
    override(&l->max_transfer, given->max_transfer);
    override(&l->pwrite_zeroes_align, given->pwrite_zeroes_align);
    override(&l->max_pwrite_zeroes, given->max_pwrite_zeroes);
    override(&l->pdiscard_align, given->pdiscard_align);
    override(&l->max_pdiscard, given->max_pdiscard);
}

static void blkdebug_child_perm(struct node *node, const struct edge *child,
                                unsigned roles, unsigned parent_perm,
                                unsigned parent_shared, unsigned *perm,
                                unsigned *shared)
{
    const struct blkdebug_state *s = node->state;

    *perm = parent_perm | s->take;
    *shared = (parent_shared | PERM_WRITE_UNCHANGED) & ~s->unshare;
}

/* ---- requests ------------------------------------------------------------ */

static int co_blkdebug_preadv(struct node *node, int64_t offset, int64_t bytes,
                              const struct iov *iov, unsigned flags)
{
    int ret = co_inject(node, BLKDEBUG_IO_TYPE_READ, offset, bytes);
    return ret < 0 ? ret
                   : co_node_preadv(node->file->child, offset, iov, flags);
}

static int co_blkdebug_pwritev(struct node *node, int64_t offset, int64_t bytes,
                               const struct iov *iov, unsigned flags)
{
    int ret = co_inject(node, BLKDEBUG_IO_TYPE_WRITE, offset, bytes);
    return ret < 0 ? ret
                   : co_node_pwritev(node->file->child, offset, iov, flags);
}

/* What is smaller than the unit that the options name is refused, as a device
 * would do. */
static int co_blkdebug_pwrite_zeroes(struct node *node, int64_t offset,
                                     int64_t bytes, unsigned flags)
{
    if (bytes < node->limits.pwrite_zeroes_align) {
        return -ENOTSUP;
    }
    int ret = co_inject(node, BLKDEBUG_IO_TYPE_WRITE_ZEROES, offset, bytes);
    return ret < 0
               ? ret
               : co_node_pwrite_zeroes(node->file->child, offset, bytes, flags);
}

static int co_blkdebug_pdiscard(struct node *node, int64_t offset,
                                int64_t bytes)
{
    if (bytes < node->limits.pdiscard_align) {
        return -ENOTSUP;
    }
    int ret = co_inject(node, BLKDEBUG_IO_TYPE_DISCARD, offset, bytes);
    return ret < 0 ? ret : co_node_pdiscard(node->file->child, offset, bytes);
}

/* The engine flushes the child. */
static int co_blkdebug_flush(struct node *node)
{
    return co_inject(node, BLKDEBUG_IO_TYPE_FLUSH, 0, 0);
}

static int co_blkdebug_block_status(struct node *node, bool want_zero,
                                    int64_t offset, int64_t bytes,
                                    struct block_status *status)
{
    int ret = co_inject(node, BLKDEBUG_IO_TYPE_BLOCK_STATUS, offset, bytes);

    *status = (struct block_status){
        .flags = BLOCK_RECURSE | BLOCK_OFFSET_VALID,
        .bytes = bytes,
        .map = offset,
        .file = node->file->child,
    };
    return ret;
}

/* Is there anything that a name "blkdebug:CONFIG:IMAGE" does not say? */
static bool has_more(const struct blockdev_options_blkdebug *o)
{
    return o->has_align || o->has_max_transfer || o->has_opt_write_zero ||
           o->has_max_write_zero || o->has_opt_discard || o->has_max_discard ||
           o->has_inject_error || o->has_set_state || o->has_take_child_perms ||
           o->has_unshare_child_perms;
}

/* Not the child's: what is between them matters. */
static void blkdebug_refresh_filename(struct node *node)
{
    const struct blockdev_options_blkdebug *o = &node->options->u.blkdebug;
    const char *image = node->file->child->filename;

    g_free(node->filename);
    node->filename = has_more(o) || g_str_has_prefix(image, "json:")
                         ? node_json_filename(node)
                         : g_strdup_printf("blkdebug:%s:%s",
                                           o->config ? o->config : "", image);
}

static const struct reopen_ops blkdebug_reopen_ops = {0};

const struct block_driver driver_blkdebug = {
    .name = "blkdebug",
    .kind = DRIVER_FILTER,
    .reopen = &blkdebug_reopen_ops,
    .state_size = sizeof(struct blkdebug_state),
    .writes_fua = true,
    .zeroes_unmap = true,
    .co_open = co_blkdebug_open,
    .co_close = co_blkdebug_close,
    .co_preadv = co_blkdebug_preadv,
    .co_pwritev = co_blkdebug_pwritev,
    .co_pwrite_zeroes = co_blkdebug_pwrite_zeroes,
    .co_pdiscard = co_blkdebug_pdiscard,
    .co_flush = co_blkdebug_flush,
    .co_block_status = co_blkdebug_block_status,
    .refresh_limits = blkdebug_refresh_limits,
    .refresh_filename = blkdebug_refresh_filename,
    .child_perm = blkdebug_child_perm,
    .co_debug_event = co_blkdebug_event,
    .breaks = blkdebug_breaks,
};
