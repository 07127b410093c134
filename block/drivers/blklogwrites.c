/*
 * blklogwrites: a filter that logs what is written, for replaying a crash.
 *
 * The log is that of Linux's dm-log-writes target (kernel documentation,
 * "dm-log-writes"): a superblock, then one sector for each entry, followed by
 * the data if it is a write. A write enters the log when it has completed, a
 * flush when it begins; so what stands before a flush in the log had completed
 * before it, and any prefix of the log is a state that a crash may leave.
 *
 * Entries are appended one after another, under a mutex. The superblock, which
 * says how many there are, is brought up to date after every n-th entry, with a
 * flush, and at close. FUA arrives as a write and a flush.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "aio/colock.h"
#include "block/driver.h"
#include "block/graph.h"
#include "block/node.h"
#include "block/request.h"
#include "util/error.h"
#include "util/range.h"

#define LOG_MAGIC        UINT64_C(0x6a736677736872)
#define LOG_VERSION      1
#define DEFAULT_SECTOR   512
#define MAX_SECTOR       (1 << 23)
#define DEFAULT_INTERVAL 4096

enum log_flag {
    LOG_FLUSH = 1 << 0,
    LOG_FUA = 1 << 1,
    LOG_DISCARD = 1 << 2,
    LOG_MARK = 1 << 3,
};

struct log_super {
    uint64_t magic, version, nr_entries;
    uint32_t sector_size;
} __attribute__((packed));

struct log_entry {
    uint64_t sector, nr_sectors, flags, data_len;
} __attribute__((packed));

struct log_state {
    struct edge *log;
    int64_t sector_size;
    struct co_mutex lock; /* of all that follows */
    int64_t end;          /* where the next entry goes */
    uint64_t nr_entries, shown;
    uint64_t interval;
    char *sector; /* for an entry or the superblock */
};

/* ---- the log ------------------------------------------------------------- */

/* The lock is held. */
static int co_write_super(struct log_state *s)
{
    struct log_super super = {
        .magic = htole64(LOG_MAGIC),
        .version = htole64(LOG_VERSION),
        .nr_entries = htole64(s->nr_entries),
        .sector_size = htole32((uint32_t)s->sector_size),
    };

    memset(s->sector, 0, s->sector_size);
    memcpy(s->sector, &super, sizeof(super));
    int ret = co_node_pwrite(s->log->child, 0, s->sector, s->sector_size, 0);
    if (ret == 0) {
        ret = co_node_flush(s->log->child);
    }
    s->shown = ret == 0 ? s->nr_entries : s->shown;
    return ret;
}

static int co_append(struct log_state *s, const struct log_entry *entry,
                     const struct iov *data)
{
    size_t data_bytes = data ? data->bytes : 0;
    unsigned count = data ? data->count : 0;
    g_autofree struct iovec *vec = g_new(struct iovec, count + 1);

    memset(s->sector, 0, s->sector_size);
    memcpy(s->sector, entry, sizeof(*entry));
    vec[0] = (struct iovec){s->sector, s->sector_size};
    if (data) {
        count = iov_export(data, vec + 1, count);
    }
    struct iov iov = iov_of(vec, count + 1);
    int ret = co_node_pwritev(s->log->child, s->end, &iov, 0);
    if (ret == 0) {
        s->end += s->sector_size + (int64_t)data_bytes;
        s->nr_entries++;
    }
    return ret;
}

static int co_log(struct log_state *s, int64_t offset, int64_t bytes,
                  enum log_flag flags, const struct iov *data)
{
    struct log_entry entry = {
        .sector = htole64(offset / s->sector_size),
        .nr_sectors = htole64(bytes / s->sector_size),
        .flags = htole64(flags),
    };

    co_mutex_lock(&s->lock);
    int ret = co_append(s, &entry, data);
    if (ret == 0 &&
        (flags & LOG_FLUSH || s->nr_entries - s->shown >= s->interval)) {
        ret = co_write_super(s);
    }
    co_mutex_unlock(&s->lock);
    return ret;
}

/* ---- opening ------------------------------------------------------------- */

static bool read_log(struct log_state *s, int64_t offset, void *buf,
                     int64_t bytes, GError **error)
{
    int ret = co_node_pread(s->log->child, offset, buf, bytes, 0);

    return ret == 0 ||
           error_set_errno(error, ret, "Could not read log at byte %" PRId64,
                           offset);
}

static bool sector_size_ok(int64_t n)
{
    return n >= 512 && n < MAX_SECTOR && is_power_of_2(n);
}

/* Goes through the entries to where the next one is to be. */
static bool co_find_end(struct log_state *s, GError **error)
{
    struct log_entry e;

    for (uint64_t i = 0; i < s->nr_entries; i++) {
        int64_t data = 0, next;
        if (!read_log(s, s->end, &e, sizeof(e), error)) {
            return false;
        }
        if (!(le64toh(e.flags) & LOG_DISCARD) &&
            (le64toh(e.nr_sectors) > INT64_MAX ||
             !range_mul((int64_t)le64toh(e.nr_sectors), s->sector_size,
                        &data))) {
            return error_set(error, "Invalid entry %" PRIu64 " of the log", i);
        }
        if (!range_add(s->end + s->sector_size, data, &next) ||
            next > s->log->child->length) {
            return error_set(
                error, "Entry %" PRIu64 " ends beyond the end of the log", i);
        }
        s->end = next;
    }
    return true;
}

static bool co_resume_log(struct log_state *s, GError **error)
{
    struct log_super super;

    if (s->log->child->length < (int64_t)sizeof(super)) {
        return true; /* a new one */
    }
    if (!read_log(s, 0, &super, sizeof(super), error)) {
        return false;
    }
    if (super.magic != htole64(LOG_MAGIC)) {
        return error_set(error, "Invalid log superblock magic");
    }
    if (super.version != htole64(LOG_VERSION)) {
        return error_set(error, "Unsupported log version %" PRIu64,
                         le64toh(super.version));
    }
    s->sector_size = le32toh(super.sector_size);
    if (!sector_size_ok(s->sector_size)) {
        return error_set(error, "Invalid log sector size %" PRId64,
                         s->sector_size);
    }
    s->nr_entries = s->shown = le64toh(super.nr_entries);
    s->end = s->sector_size;
    return co_find_end(s, error);
}

static bool set_up_log(struct log_state *s,
                       const struct blockdev_options_blklogwrites *o,
                       GError **error)
{
    bool append = o->has_log_append && o->log_append;

    s->sector_size =
        o->has_log_sector_size ? o->log_sector_size : DEFAULT_SECTOR;
    s->interval = o->has_log_super_update_interval
                      ? o->log_super_update_interval
                      : DEFAULT_INTERVAL;
    if (append && o->has_log_sector_size) {
        return error_set(error, "log-append and log-sector-size are mutually "
                                "exclusive");
    }
    if (!sector_size_ok(s->sector_size)) {
        return error_set(error, "Invalid log sector size %" PRId64,
                         s->sector_size);
    }
    if (!s->interval) {
        return error_set(error, "Invalid log superblock update interval 0");
    }
    s->end = s->sector_size;
    if (append && !co_resume_log(s, error)) {
        return false;
    }
    s->sector = io_buffer_try_alloc(s->log->child, s->sector_size);
    return s->sector || error_set(error, "Not enough memory for the log");
}

static bool co_logwrites_open(struct node *node,
                              const struct blockdev_options *options,
                              GError **error)
{
    const struct blockdev_options_blklogwrites *o = &options->u.blklogwrites;
    struct log_state *s = node->state;

    if (!co_node_open_child(node, o->file, "file", ROLE_FILTERED | ROLE_PRIMARY,
                            error)) {
        return false;
    }
    s->log = co_node_open_child(node, o->log, "log", ROLE_METADATA, error);
    if (!s->log || !set_up_log(s, o, error)) {
        return false;
    }
    node->length = node->file->child->length;
    return true;
}

static void co_logwrites_close(struct node *node)
{
    struct log_state *s = node->state;

    if (s->nr_entries != s->shown) {
        co_mutex_lock(&s->lock);
        int ret = co_write_super(s);
        co_mutex_unlock(&s->lock);
        if (ret < 0) {
            g_warning("node '%s': the end of the log is lost: %s", node->name,
                      g_strerror(-ret));
        }
    }
    io_buffer_free(s->sector);
}

static void logwrites_refresh_limits(struct node *node)
{
    const struct log_state *s = node->state;

    node->limits = node->file->child->limits;
    node->limits.request_alignment =
        max_i64(node->limits.request_alignment, s->sector_size);
}

/* ---- requests ------------------------------------------------------------ */

static int co_logwrites_pwritev(struct node *node, int64_t offset,
                                int64_t bytes, const struct iov *iov,
                                unsigned flags)
{
    int ret = co_node_pwritev(node->file->child, offset, iov, flags);

    return ret < 0 ? ret : co_log(node->state, offset, bytes, 0, iov);
}

static int co_logwrites_pdiscard(struct node *node, int64_t offset,
                                 int64_t bytes)
{
    int ret = co_node_pdiscard(node->file->child, offset, bytes);

    return ret < 0 ? ret
                   : co_log(node->state, offset, bytes, LOG_DISCARD, NULL);
}

/* Zeroes are logged as the data they are: the engine writes them. */
static int co_logwrites_pwrite_zeroes(struct node *node, int64_t offset,
                                      int64_t bytes, unsigned flags)
{
    return -ENOTSUP;
}

/* The engine flushes the file after this. */
static int co_logwrites_flush(struct node *node)
{
    return co_log(node->state, 0, 0, LOG_FLUSH, NULL);
}

static const char *const logwrites_strong_options[] = {
    "file", "log", "log-sector-size", "log-append", NULL};

const struct block_driver driver_blklogwrites = {
    .name = "blklogwrites",
    .kind = DRIVER_FILTER,
    .state_size = sizeof(struct log_state),
    .strong_options = logwrites_strong_options,
    .co_open = co_logwrites_open,
    .co_close = co_logwrites_close,
    .co_pwritev = co_logwrites_pwritev,
    .co_pwrite_zeroes = co_logwrites_pwrite_zeroes,
    .co_pdiscard = co_logwrites_pdiscard,
    .co_flush = co_logwrites_flush,
    .refresh_limits = logwrites_refresh_limits,
    .refresh_filename = node_refresh_json_filename,
};
