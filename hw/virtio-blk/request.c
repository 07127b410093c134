/*
 * One block request (virtio 1.1, 5.2.6): from a chain of buffers to the backend
 * and to the status byte.
 *
 * Each request runs on a pooled coroutine of its own, and lives in the slot of
 * its chain. A request that the guest got wrong in a way the status byte can
 * say ends with that status; one without room for header or status breaks the
 * device. Failures of storage go through werror and rerror; under `stop` the
 * coroutine sleeps in the device's list of held requests, sorted by arrival,
 * and then tries again from the start. Runs on the device's loop.
 */
#include <errno.h>

#include "hw/virtio-blk/device.h"
#include "util/range.h"

/* A handler returns 0, a negative errno for werror/rerror to decide on, or the
 * status (> 0) that the guest gets. */
typedef int request_fn(struct virtio_blk *dev, struct virtio_blk_req *req);

/* The bytes that a request means, if they are blocks of the disk. */
static bool disk_range(const struct virtio_blk *dev, uint64_t sector,
                       uint64_t bytes, int64_t *offset)
{
    if (sector > (uint64_t)INT64_MAX >> VIRTIO_BLK_SECTOR_BITS ||
        bytes > INT64_MAX) {
        return false;
    }
    *offset = sector << VIRTIO_BLK_SECTOR_BITS;
    return is_aligned(*offset, dev->logical_bytes) &&
           is_aligned(bytes, dev->logical_bytes) &&
           range_within(*offset, bytes, dev->length);
}

/* The guest's mistake: no matter for werror and rerror. */
static int refuse(struct virtio_blk *dev, enum acct_op op)
{
    dev->backend->acct[op].invalid++;
    return VIRTIO_BLK_S_IOERR;
}

static int co_do_in(struct virtio_blk *dev, struct virtio_blk_req *req)
{
    int64_t offset;

    if (!disk_range(dev, req->sector, req->data.bytes, &offset)) {
        return refuse(dev, ACCT_READ);
    }
    return co_backend_preadv(dev->backend, offset, &req->data, 0);
}

static int co_do_out(struct virtio_blk *dev, struct virtio_blk_req *req)
{
    int64_t offset;

    /* 5.2.6.2: a read-only device fails writes and writes nothing. */
    if (dev->backend->read_only ||
        !disk_range(dev, req->sector, req->data.bytes, &offset)) {
        return refuse(dev, ACCT_WRITE);
    }
    return co_backend_pwritev(dev->backend, offset, &req->data, 0);
}

static int co_do_flush(struct virtio_blk *dev, struct virtio_blk_req *req)
{
    return co_backend_flush(dev->backend);
}

static int co_do_get_id(struct virtio_blk *dev, struct virtio_blk_req *req)
{
    size_t n = MIN(req->data.bytes, sizeof(dev->serial));

    iov_from_buf(&req->data, 0, dev->serial, n);
    iov_set(&req->data, n, 0, req->data.bytes - n);
    return 0;
}

struct segment {
    int64_t offset, bytes;
    bool unmap;
};

/* Fetches a segment once and checks it; 0 or the status for the guest. */
static int segment_at(const struct virtio_blk *dev,
                      const struct virtio_blk_req *req, size_t index,
                      uint32_t max_sectors, struct segment *segment)
{
    struct virtio_blk_segment s;

    iov_to_buf(&req->data, index * sizeof(s), &s, sizeof(s));
    uint32_t flags = le32toh(s.flags), sectors = le32toh(s.num_sectors);
    bool unmap = flags & VIRTIO_BLK_SEGMENT_UNMAP;

    /* 5.2.6.2: unknown flags, and unmap in a discard. */
    if (flags & ~(uint32_t)VIRTIO_BLK_SEGMENT_UNMAP ||
        (unmap && req->type == VIRTIO_BLK_T_DISCARD)) {
        return VIRTIO_BLK_S_UNSUPP;
    }
    segment->unmap = unmap;
    segment->bytes = (int64_t)sectors << VIRTIO_BLK_SECTOR_BITS;
    if (!sectors || sectors > max_sectors ||
        !disk_range(dev, le64toh(s.sector), segment->bytes, &segment->offset)) {
        return VIRTIO_BLK_S_IOERR;
    }
    return 0;
}

/* DISCARD and WRITE_ZEROES: a list of segments. All of them are checked before
 * the first is carried out; the guest may change them in between, so they are
 * kept, and kept small by max_seg. */
static int co_do_segments(struct virtio_blk *dev, struct virtio_blk_req *req)
{
    const struct virtio_blk_config *c = &dev->config;
    bool discard = req->type == VIRTIO_BLK_T_DISCARD;
    uint32_t max_segments =
        le32toh(discard ? c->max_discard_seg : c->max_write_zeroes_seg);
    uint32_t max_sectors =
        le32toh(discard ? c->max_discard_sectors : c->max_write_zeroes_sectors);
    struct segment segments[32];
    size_t n = req->data.bytes / sizeof(struct virtio_blk_segment);
    int ret;

    if (!virtio_blk_has(dev, discard ? VIRTIO_BLK_F_DISCARD
                                     : VIRTIO_BLK_F_WRITE_ZEROES)) {
        return VIRTIO_BLK_S_UNSUPP;
    }
    g_assert(max_segments <= G_N_ELEMENTS(segments));
    if (!n || n > max_segments ||
        req->data.bytes % sizeof(struct virtio_blk_segment)) {
        return VIRTIO_BLK_S_IOERR;
    }
    for (size_t i = 0; i < n; i++) {
        ret = segment_at(dev, req, i, max_sectors, &segments[i]);
        if (ret == VIRTIO_BLK_S_IOERR) {
            return refuse(dev, discard ? ACCT_UNMAP : ACCT_WRITE);
        }
        if (ret) {
            return ret;
        }
    }
    for (size_t i = 0; i < n; i++) {
        const struct segment *s = &segments[i];

        ret = discard
                  ? co_backend_pdiscard(dev->backend, s->offset, s->bytes)
                  : co_backend_pwrite_zeroes(dev->backend, s->offset, s->bytes,
                                             s->unmap ? REQ_MAY_UNMAP : 0);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

static const struct request_kind {
    request_fn *co_do;
    bool fills;   /* data goes to the guest */
    bool is_read; /* rerror decides, not werror */
    bool changes; /* the disk */
} kinds[] = {
    [VIRTIO_BLK_T_IN] = {.co_do = co_do_in, .fills = true, .is_read = true},
    [VIRTIO_BLK_T_OUT] = {.co_do = co_do_out, .changes = true},
    [VIRTIO_BLK_T_FLUSH] = {.co_do = co_do_flush},
    [VIRTIO_BLK_T_GET_ID] = {.co_do = co_do_get_id,
                             .fills = true,
                             .is_read = true},
    [VIRTIO_BLK_T_DISCARD] = {.co_do = co_do_segments, .changes = true},
    [VIRTIO_BLK_T_WRITE_ZEROES] = {.co_do = co_do_segments, .changes = true},
};

static const struct request_kind *kind_of(uint32_t type)
{
    return type < G_N_ELEMENTS(kinds) && kinds[type].co_do ? &kinds[type]
                                                           : NULL;
}

/* Sleeps until the guest runs again; false if the request was dropped. */
static bool co_hold(struct virtio_blk *dev, struct virtio_blk_req *req)
{
    struct virtio_blk_req *before;

    if (!dev->active) {
        return false; /* a reset waits for it, or never will take it */
    }
    TAILQ_FOREACH_REVERSE(before, &dev->held, virtio_blk_held, link)
    {
        if (before->seq < req->seq) {
            break;
        }
    }
    if (before) {
        TAILQ_INSERT_AFTER(&dev->held, before, req, link);
    } else {
        TAILQ_INSERT_HEAD(&dev->held, req, link);
    }
    req->co = co_self();
    req->dropped = false;
    co_queue_wake_all(&dev->idle);
    co_yield ();
    return !req->dropped;
}

void virtio_blk_release_held(struct virtio_blk *dev, bool drop)
{
    struct virtio_blk_req *req;

    while ((req = TAILQ_FIRST(&dev->held))) {
        TAILQ_REMOVE(&dev->held, req, link);
        req->dropped = drop;
        co_wake(req->co);
    }
}

/* What the guest is told about a failure; -1 if the request was dropped. *again
 * is set if it is to be tried again. */
static int co_apply_policy(struct virtio_blk *dev, struct virtio_blk_req *req,
                           bool is_read, int errnum, bool *again)
{
    enum block_error_action action =
        backend_error_action(dev->backend, is_read, errnum);

    backend_report_error(dev->backend, action, is_read, errnum);
    switch (action) {
    case BLOCK_ERROR_ACTION_IGNORE:
        return VIRTIO_BLK_S_OK;
    case BLOCK_ERROR_ACTION_STOP:
        *again = co_hold(dev, req);
        return -1;
    case BLOCK_ERROR_ACTION_REPORT:
        break;
    }
    return VIRTIO_BLK_S_IOERR;
}

static void co_run(void *opaque)
{
    struct virtio_blk_req *req = opaque;
    struct virtio_blk *dev = req->queue->dev;
    const struct request_kind *kind = kind_of(req->type);
    int status;
    bool again;

    do {
        again = false;
        status = kind ? kind->co_do(dev, req) : VIRTIO_BLK_S_UNSUPP;
        if (!status && kind->changes && req->queue->vq.inflight) {
            /* Once it has ended nobody will do it again. */
            status = co_backend_write_back(dev->backend);
        }
        if (G_UNLIKELY(status < 0)) {
            status = co_apply_policy(dev, req, kind->is_read, -status, &again);
        }
    } while (again);

    if (G_UNLIKELY(sigbus_count() != dev->seen_lost)) {
        virtio_blk_check_memory(dev); /* its data may have been nothing */
    }
    /* After a violation or a reset the guest's memory is left alone. */
    if (G_LIKELY(dev->active && status >= 0)) {
        if (status && kind && kind->fills && req->data.bytes) {
            /* The used length promises that all of it was written. */
            iov_set(&req->data, 0, 0, req->data.bytes);
        }
        *req->status = status;
    }
    virtio_blk_end(req, kind && kind->fills ? req->chain.writable_bytes : 1);
}

void virtio_blk_start(struct virtio_blk_req *req)
{
    struct vq_chain *chain = &req->chain;
    struct iov readable = vq_chain_readable(chain);
    struct iov writable = vq_chain_writable(chain);
    struct virtio_blk *dev = req->queue->dev;
    struct virtio_blk_header header;

    if (G_UNLIKELY(readable.bytes < sizeof(header) || !writable.bytes)) {
        virtio_blk_break(dev, readable.bytes < sizeof(header)
                                  ? "request without a header"
                                  : "request without a status byte");
        virtio_blk_end(req, 0);
        return;
    }
    iov_to_buf(&readable, 0, &header, sizeof(header));
    req->type = le32toh(header.type);
    req->sector = le64toh(header.sector);
    req->seq = dev->next_seq++;

    const struct iovec *last =
        &chain->vec[chain->readable + chain->writable - 1];
    req->status = (uint8_t *)last->iov_base + last->iov_len - 1;

    const struct request_kind *kind = kind_of(req->type);
    if (kind && kind->fills) {
        req->data = iov_slice(&writable, 0, writable.bytes - 1);
    } else {
        req->data = iov_slice(&readable, sizeof(header),
                              readable.bytes - sizeof(header));
    }
    co_enter(co_create(co_run, req));
}
