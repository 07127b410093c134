/*
 * What the files of the qcow2 driver share; see qcow2.c for the design.
 *
 * Everything runs on the node's loop. Data functions return 0 or -errno.
 */
#ifndef VARVE_BLOCK_DRIVERS_QCOW2_H
#define VARVE_BLOCK_DRIVERS_QCOW2_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include "aio/colock.h"
#include "block/drivers/qcow2/bitmaps.h"
#include "block/drivers/qcow2/cache.h"
#include "block/drivers/qcow2/format.h"
#include "block/drivers/qcow2/guard.h"
#include "block/drivers/qcow2/header.h"
#include "block/drivers/qcow2/snapshots.h"
#include "block/graph.h"
#include "block/node.h"
#include "block/request.h"
#include "util/hbitmap.h"
#include "util/range.h"

/* Why a cluster is freed; decides whether the file gets a discard. */
enum free_kind {
    FREE_OTHER,
    FREE_REQUEST,  /* a guest's discard or unmapping write-zeroes */
    FREE_SNAPSHOT, /* a snapshot's deletion, or going back to one */
    FREE_KINDS,
};

/* Clusters on their way to refcount - 1; see free.c. */
struct free_run {
    int64_t offset, bytes;
    enum free_kind kind;
};

/* An allocating write whose L2 entries are not yet set. */
struct allocation {
    int64_t offset, end; /* guest bytes, whole clusters */
    struct co_queue waiters;
    TAILQ_ENTRY(allocation) link;
};

/* A run of clusters that are counted but not yet used. */
struct reserved_run {
    int64_t start, next, end; /* cluster indices */
    uint64_t generation;      /* number of the run, from 1 on */
};

/* See reserve.c. */
struct qcow2_reserve {
    struct reserved_run now, ahead; /* clusters come from `now` */
    int64_t bytes;                  /* size of the last run */
    uint64_t generation;            /* of the last run */
    uint64_t stable; /* up to this run, refcounts and the file's length are on
                        disk */
    bool preparing;  /* `ahead` */
    bool failed;     /* no more runs */
    struct co_queue prepared;
};

/* The range [lo, hi) of table entries that differ from the disk; empty if
 * lo >= hi. */
struct table_dirt {
    uint32_t lo, hi;
};

struct qcow2 {
    struct node *node;

    /* hot: geometry */
    unsigned cluster_bits;
    unsigned slice_bits; /* L2 entries of a slice, log2 */
    unsigned l2_bits;    /* L2 entries of a table, log2 */
    unsigned extended;   /* 1: L2 entries have two words, see subclusters.c */
    unsigned sub_bits;   /* bytes of a subcluster, else of a cluster, log2 */
    unsigned version;
    int64_t cluster_size;
    struct meta_cache l2;
    uint64_t *l1; /* in the host's byte order */
    uint32_t l1_size;
    bool broken;     /* found corrupt while running: no more writes */
    bool guard_data; /* something is guarded that data share a file with */
    bool external, external_raw; /* see external.c */
    const struct edge *data;     /* where guest data are: file, or data-file */
    struct hbitmap *meta;        /* by host offset: what may hold metadata */
    unsigned grace_now;          /* generation of new requests: 0 or 1 */
    unsigned grace_in_flight[2];
    TAILQ_HEAD(, allocation) allocations;

    /* clusters */
    struct meta_cache rb;    /* refcount blocks */
    unsigned refcount_order; /* bits of a refcount, log2 */
    unsigned rslice_bits;    /* refcounts of a slice, log2 */
    unsigned rb_bits;        /* refcounts of a block, log2 */
    uint64_t *rt;            /* refcount table, host's byte order */
    uint32_t rt_size;        /* entries */
    bool rt_shadowed;        /* not what the header names; see shadow.h */
    uint64_t (*refcount_get)(const void *slice, uint64_t index);
    void (*refcount_set)(void *slice, uint64_t index, uint64_t value);
    uint64_t refcount_max;
    struct co_mutex alloc_lock; /* refcounts and the search for free clusters */
    int64_t alloc_hint;         /* cluster index: none below is free */
    int64_t zero_from;          /* nothing was ever written from here on */
    int64_t growing_to;         /* bytes that the disk is about to have, or 0 */
    int64_t pack_at; /* where the next compressed data go, within a cluster that
                        has some; 0 = nowhere yet */
    struct co_mutex table_lock; /* one new L2 table at a time */

    /* order of writes, see commit.c */
    struct co_mutex commit_lock;
    struct table_dirt l1_dirt, rt_dirt;
    bool rt_committing; /* what was dirty in rt is being written */
    bool ends_survive;  /* what ended has to outlive the process */
    bool needs_order;   /* an L2 entry in memory needs a flush before it is
                           written; see reserve.c */
    struct qcow2_reserve reserve;
    GArray *frees[4]; /* struct free_run, by enum free_stage */
    bool applying_frees;
    bool discard_passed[FREE_KINDS];
    bool discard_no_unref; /* discarded clusters keep their place */

    /* see lazy.c */
    bool lazy;    /* refcounts may lag behind */
    bool lagging; /* they may do so on disk, and the dirty bit is set there */

    /* see compress.c */
    enum qcow2_compress_effort compress_effort;
    struct compressor *compressors; /* those at rest */
    unsigned compressors_busy;
    struct co_queue compressor_waiters;

    /* cold: the header */
    struct qcow2_disk_header header; /* in the host's byte order */
    GPtrArray *extensions;           /* of struct header_extension */
    uint8_t *further_fields;         /* of the header, not known here */
    size_t further_bytes;
    struct co_mutex header_lock;   /* one write of the header at a time */
    struct qcow2_bitmaps *bitmaps; /* those in the image */
    bool damage_told;              /* of the image: once is enough */
    struct qcow2_guard guard;
    struct qcow2_snapshots snapshots;
    bool recurse_known, recurse; /* block status looks into the file */
};

/* What the image lies in; another node may take its place while running. */
static inline struct node *qcow2_file(const struct qcow2 *s)
{
    return s->node->file->child;
}

/* What the guest's data lie in; the same, but for an external data file. */
static inline struct node *qcow2_data(const struct qcow2 *s)
{
    return s->data->child;
}

enum free_stage {
    FREE_PENDING,  /* out of the L2 slice in memory */
    FREE_STABLE,   /* out of the L2 table on disk */
    FREE_SETTLING, /* waits for requests that may still use the mapping */
    FREE_READY,    /* nobody can reach it any more */
    FREE_STAGES,
};

enum cluster_type {
    CLUSTER_UNALLOCATED,
    CLUSTER_ZERO_PLAIN,
    CLUSTER_ZERO_ALLOC, /* reads as zeroes, has a cluster */
    CLUSTER_NORMAL,
    CLUSTER_COMPRESSED,
};

/* A run of guest bytes of one type. */
struct mapping {
    enum cluster_type type;
    bool copied;    /* nobody else refers to the cluster at host */
    bool placed;    /* has a place in the file; an unallocated subcluster has
                       if its cluster is allocated */
    int64_t host;   /* that place: byte offset, contiguous */
    uint64_t entry; /* COMPRESSED: the L2 entry; the run ends with it */
    int64_t bytes;
};

/* ---- header.c; see header.h, too ---- */
/* Reads and checks header and extensions; sets node->backing_filename and
 * backing_format, s->header and the geometry. */
bool co_qcow2_read_header(struct qcow2 *s, GError **error);
/* ---- qcow2.c ---- */
/* Everything that is in memory only goes to the file, of a node that no request
 * is in; 0 or -errno. */
int co_qcow2_settle(struct qcow2 *s);
/* What has to be done to an image before its first write. */
bool co_qcow2_prepare_writing(struct qcow2 *s, GError **error);

/* ---- reopen.c ---- */
extern const struct reopen_ops qcow2_reopen_ops;

/* ---- options.c ---- */
/* Whether the options are possible for the image. */
bool qcow2_check_options(const struct qcow2 *s,
                         const struct blockdev_options_qcow2 *o,
                         GError **error);
/* Reads what the options need; before or after they are applied. */
bool co_qcow2_options_ready(struct qcow2 *s,
                            const struct blockdev_options_qcow2 *o,
                            GError **error);
/* Sets the caches up and what else follows from the options. */
bool qcow2_apply_options(struct qcow2 *s,
                         const struct blockdev_options_qcow2 *o,
                         GError **error);

/* ---- tables.c: L1 and refcount table in memory ---- */
bool co_qcow2_load_tables(struct qcow2 *s, GError **error);
/* Reads them again, and what holds metadata. On failure the old ones stay. */
bool co_qcow2_reload_tables(struct qcow2 *s, GError **error);
void qcow2_free_tables(struct qcow2 *s);
void table_dirt_add(struct table_dirt *d, uint32_t index);

/* ---- guard.c; see guard.h, too ---- */
/* 0 if guest data may overwrite what is at offset, else -errno. */
static inline int co_qcow2_guard_data(struct qcow2 *s, int64_t offset,
                                      int64_t bytes)
{
    return G_LIKELY(!s->guard_data || !qcow2_meta_overlaps(s, offset, bytes))
               ? 0
               : co_qcow2_guard(s, 0, offset, bytes);
}
/* The same for a table in its own place. */
static inline int co_qcow2_guard_table(struct qcow2 *s, enum meta_table table,
                                       int64_t offset, int64_t bytes)
{
    return G_LIKELY(!s->guard.tangled)
               ? 0
               : co_qcow2_guard(s, 1u << table, offset, bytes);
}

/* ---- corrupt.c ---- */
/* Marks the image as corrupt, here and on disk, and announces it; -EIO. */
int co_qcow2_corrupt(struct qcow2 *s, int64_t offset, int64_t bytes,
                     const char *format, ...) G_GNUC_PRINTF(4, 5);
/* Announces damage that does no further harm: writes go on, and the image is
 * not marked. Does not suspend. */
void qcow2_note_damage(struct qcow2 *s, const char *format, ...)
    G_GNUC_PRINTF(2, 3);

/* ---- map.c ---- */
/* What a mapping is wanted for; decides which damage matters. */
enum map_use {
    MAP_READ,
    MAP_WRITE, /* entries that are not copied are going to be replaced */
};
/* The mapping at offset, as far as one slice says the same, at most bytes.
 * Does not suspend if the slice is in memory. */
int co_qcow2_map(struct qcow2 *s, int64_t offset, int64_t bytes,
                 struct mapping *m, enum map_use use);
/* For messages: the L2 table of offset, which must have one, and the index of
 * its entry there. */
uint64_t qcow2_l2_table(const struct qcow2 *s, int64_t offset);
unsigned qcow2_l2_index(const struct qcow2 *s, int64_t offset);
/* Makes the L2 slice at offset present and its table writable (a copy of its
 * own); good until the caller suspends. */
int co_qcow2_slice_for_write(struct qcow2 *s, int64_t offset,
                             struct meta_entry **slice);
/* The same, but *slice is NULL where there is no L2 table. */
int co_qcow2_slice_if_any(struct qcow2 *s, int64_t offset,
                          struct meta_entry **slice);
/* struct meta_cache.place of L2 slices. */
int64_t qcow2_l2_slice_place(const void *opaque, uint64_t key);
/* What the first word of an entry says. */
void qcow2_decode_entry(const struct qcow2 *s, uint64_t entry,
                        struct mapping *m);
/* 0 unless the first word of an entry, at guest offset, is what no correct
 * image has. */
int co_qcow2_check_entry(struct qcow2 *s, int64_t offset,
                         const struct mapping *m, enum map_use use);
/* True if what is not allocated at offset comes from the backing node; what is
 * behind the end of the disk does not. */
static inline bool qcow2_backing_covers(const struct qcow2 *s, int64_t offset)
{
    const struct edge *backing = s->node->backing;
    return backing && offset < backing->child->length &&
           offset < max_i64(s->node->length, s->growing_to);
}
/* Entry i of a slice: one word, or two with extended L2 entries. */
static inline uint64_t *qcow2_entry_at(const struct qcow2 *s, void *slice,
                                       unsigned i)
{
    return (uint64_t *)slice + ((size_t)i << s->extended);
}
static inline unsigned qcow2_entry_bytes(const struct qcow2 *s)
{
    return 8u << s->extended;
}
/* Index of an entry within its slice. */
static inline unsigned qcow2_slice_index(const struct qcow2 *s, int64_t offset)
{
    return (offset >> s->cluster_bits) & ((1u << s->slice_bits) - 1);
}
static inline int64_t qcow2_slice_bytes(const struct qcow2 *s)
{
    return INT64_C(1) << (s->cluster_bits + s->slice_bits);
}

/* Guest bytes of an L2 table. */
static inline int64_t qcow2_table_bytes(const struct qcow2 *s)
{
    return INT64_C(1) << (s->cluster_bits + s->l2_bits);
}

/* ---- external.c: a data file ---- */
/* Sets s->data; ref is the option, or NULL. */
bool co_qcow2_open_data_file(struct qcow2 *s, const struct blockdev_ref *ref,
                             GError **error);
/* As co_qcow2_check_entry(), for what only such an image must not have. */
int co_qcow2_check_external(struct qcow2 *s, int64_t offset,
                            const struct mapping *m);
/* What keeps a raw data file equal to the disk. */
int co_qcow2_external_zeroes(struct qcow2 *s, int64_t offset, int64_t bytes,
                             unsigned flags);
/* Gives the storage of clusters back that L2 tables let go. */
void co_qcow2_external_discard(struct qcow2 *s, int64_t offset, int64_t bytes,
                               enum free_kind kind);

/* ---- subclusters.c: extended L2 entries ---- */
/* As co_qcow2_map(), in a slice. */
int co_qcow2_map_subclusters(struct qcow2 *s, struct meta_entry *slice,
                             int64_t offset, int64_t bytes, struct mapping *m,
                             enum map_use use);
/* Bits of those subclusters that [offset, end), within a cluster, touches. */
uint32_t qcow2_subcluster_mask(const struct qcow2 *s, int64_t offset,
                               int64_t end);
/* True if [offset, end), within the cluster of the entry, reads as zeroes. */
bool qcow2_subclusters_zero(const struct qcow2 *s, const uint64_t *entry,
                            int64_t offset, int64_t end);
/* What has to be written so that the clusters from `first` on can hold
 * [*from, *to), which begins in the one and ends in the other of two entries:
 * the range grows by what must be copied. own: the clusters stay. */
void qcow2_subclusters_widen(const struct qcow2 *s, const uint64_t *first,
                             const uint64_t *last, bool own, int64_t *from,
                             int64_t *to);
/* The second word when [offset, end), within the cluster, has been written. */
uint64_t qcow2_subclusters_written(const struct qcow2 *s, const uint64_t *old,
                                   int64_t offset, int64_t end);

/* ---- io.c ---- */
int co_qcow2_preadv(struct node *node, int64_t offset, int64_t bytes,
                    const struct iov *iov, unsigned flags);
int co_qcow2_pwritev(struct node *node, int64_t offset, int64_t bytes,
                     const struct iov *iov, unsigned flags);
/* Within a request: guest data as normal clusters. */
int co_qcow2_write_data(struct qcow2 *s, int64_t offset, int64_t bytes,
                        const struct iov *iov);
/* Within a request: guest data as they are now. */
int co_qcow2_read_data(struct qcow2 *s, int64_t offset, int64_t bytes,
                       const struct iov *iov);
int co_qcow2_block_status(struct node *node, bool want_zero, int64_t offset,
                          int64_t bytes, struct block_status *status);
/* Brackets of a request that uses mappings. */
static inline unsigned qcow2_enter(struct qcow2 *s)
{
    s->grace_in_flight[s->grace_now]++;
    return s->grace_now;
}
static inline void qcow2_leave(struct qcow2 *s, unsigned generation)
{
    s->grace_in_flight[generation]--;
}

/* ---- alloc.c: writes that allocate ---- */
/* Writes a first part of iov at offset, where no cluster can be overwritten as
 * it is; *done says how much. 0 and *done 0 asks to map again. */
int co_qcow2_write_alloc(struct qcow2 *s, int64_t offset, const struct iov *iov,
                         int64_t *done);
/* Puts a on (takes it off) the list of allocations in flight; nobody else's may
 * touch its range. */
void qcow2_allocation_begin(struct qcow2 *s, struct allocation *a);
void qcow2_allocation_end(struct qcow2 *s, struct allocation *a);
/* Waits for an allocation in flight in the range; true if there was one, and
 * then everything may have changed. */
bool co_qcow2_wait_allocation(struct qcow2 *s, int64_t offset, int64_t bytes);

/* ---- zero.c ---- */
int co_qcow2_pwrite_zeroes(struct node *node, int64_t offset, int64_t bytes,
                           unsigned flags);
int co_qcow2_pdiscard(struct node *node, int64_t offset, int64_t bytes);
/* Frees what maps [offset, offset + bytes), whole clusters, so that nothing is
 * mapped there: for shrinking. */
int co_qcow2_unmap(struct qcow2 *s, int64_t offset, int64_t bytes);

/* ---- refcount.c ---- */
/* Sets what follows from s->refcount_order. */
void qcow2_refcount_init(struct qcow2 *s);
int co_qcow2_refcount(struct qcow2 *s, int64_t cluster, uint64_t *value);
/* Clusters that were taken: whole and contiguous. */
struct qcow2_run {
    int64_t offset, n;
    bool fresh;       /* never written, so they read as zeroes */
    uint64_t reserve; /* generation of the reserve that they come from, or 0 */
};
/* Up to `want` contiguous clusters, refcount 1 from now on. */
int co_qcow2_alloc_clusters(struct qcow2 *s, int64_t want,
                            struct qcow2_run *run);
/* The same with alloc_lock held, where nothing was ever written: *got of them
 * at the returned offset, or -errno; -ENOENT if others come first. */
int64_t co_qcow2_alloc_fresh_locked(struct qcow2 *s, int64_t want,
                                    int64_t *got);
/* Exactly n contiguous clusters for `what`, which error messages name. */
int64_t co_qcow2_alloc_contiguous(struct qcow2 *s, int64_t n, const char *what);
/* The same with alloc_lock held. */
int64_t co_qcow2_alloc_contiguous_locked(struct qcow2 *s, int64_t n,
                                         const char *what);
/* Refcount - 1 for whole clusters; *done bytes are, even on failure. */
int co_qcow2_release(struct qcow2 *s, int64_t offset, int64_t bytes,
                     int64_t *done);
/* For repair: any value; -ENOENT if no block counts the cluster. */
int co_qcow2_refcount_force(struct qcow2 *s, int64_t cluster, uint64_t value);
/* 0 if entry i of the refcount table says where a block can be; else the image
 * is marked, -EIO. */
int co_qcow2_check_refcount_block(struct qcow2 *s, uint64_t i);

/* With alloc_lock held: the slice that counts cluster, or NULL where no block
 * does. */
int co_qcow2_refcount_slice(struct qcow2 *s, int64_t cluster,
                            struct meta_entry **slice);
/* The same for a refcount that is to change. */
int co_qcow2_refcount_to_change(struct qcow2 *s, int64_t cluster,
                                struct meta_entry **slice);
/* Clusters below end (an index) have been handed out. */
void qcow2_note_used(struct qcow2 *s, int64_t end);

/* ---- reserve.c: clusters counted ahead ---- */
/* Before alloc_lock is taken: waits for a run that is nearly ready, which is
 * sooner than a flush. */
void co_qcow2_wait_reserve(struct qcow2 *s);
/* With alloc_lock held: up to `want` clusters, which are fresh; where, or
 * negative if there are none. */
int64_t co_qcow2_take_reserved(struct qcow2 *s, int64_t want, int64_t *got);
/* Makes the run ready that will be taken next, unless it is. */
void co_qcow2_reserve_ahead(struct qcow2 *s);
/* What is left is given back; for a node that no request is in. */
void co_qcow2_drop_reserve(struct qcow2 *s);

/* ---- lazy.c ---- */
/* Before clusters are handed out: says on disk that refcounts may lag. */
int co_qcow2_lag(struct qcow2 *s);
/* Writes them, and says that they no longer do. Nobody else uses the node. */
int co_qcow2_catch_up(struct qcow2 *s);
/* Before the repair of an image whose refcounts lag: makes the file as long as
 * its tables say. */
int co_qcow2_cover_references(struct qcow2 *s);

/* ---- reftable.c: new refcount blocks and a larger refcount table ---- */
/* With alloc_lock held: makes the block that counts cluster, which no block
 * does, in the free cluster `home`; home may be cluster itself. -EAGAIN: the
 * table had to grow first and took clusters; search again. */
int co_qcow2_make_refcount_block(struct qcow2 *s, int64_t cluster,
                                 int64_t home);

/* The table can count all clusters below `end`, an index. 0 or -errno. */
int co_qcow2_reserve_refcounts(struct qcow2 *s, int64_t end);

/* ---- commit.c, free.c ---- */
/* Makes all that was written stable, guest data first. */
int co_qcow2_flush_files(struct qcow2 *s);
/* Metadata to the file in safe order: what they refer to is stable first. */
int co_qcow2_commit(struct qcow2 *s);
int co_qcow2_commit_locked(struct qcow2 *s);
/* block_driver.co_write_back. */
int co_qcow2_write_back(struct node *node);
/* The last reference in memory to a range of clusters is gone. */
void qcow2_free_later(struct qcow2 *s, int64_t offset, int64_t bytes,
                      enum free_kind kind);
/* Clusters that no metadata on disk ever referred to. */
void co_qcow2_free_unused(struct qcow2 *s, int64_t offset, int64_t bytes);
/* Clusters that nothing on disk, and no request, refers to any more. */
void co_qcow2_free_now(struct qcow2 *s, int64_t offset, int64_t bytes,
                       enum free_kind kind);
/* What an L2 entry refers to; nothing is as good as anything. */
void qcow2_free_entry_later(struct qcow2 *s, uint64_t entry,
                            enum free_kind kind);
void qcow2_frees_advance(struct qcow2 *s);
void co_qcow2_apply_frees(struct qcow2 *s);
bool qcow2_frees_left(const struct qcow2 *s);
void qcow2_frees_append(GArray *to, GArray *from);

/* ---- pack.c: compressed clusters share clusters of the file ---- */
/* Room for bytes, at most a cluster, of compressed data; where, or -errno. Each
 * cluster that it touches counts it once. */
int64_t co_qcow2_alloc_packed(struct qcow2 *s, int64_t bytes);
/* The cluster at host takes no more compressed data. */
static inline void qcow2_pack_close(struct qcow2 *s, int64_t host)
{
    if (align_down(s->pack_at, s->cluster_size) == host) {
        s->pack_at = 0;
    }
}

/* ---- compress.c ---- */
/* Writes whole clusters compressed; the last one may end where the node does.
 * -EINVAL for any other range. */
int co_qcow2_write_compressed(struct qcow2 *s, int64_t offset,
                              const struct iov *iov);
void qcow2_free_compressors(struct qcow2 *s);

/* ---- compressed.c ---- */
/* Highest host offset + 1 that the entry of a compressed cluster can name. */
int64_t qcow2_compressed_limit(const struct qcow2 *s);
/* The entry for bytes of compressed data at host, below that limit. */
uint64_t qcow2_compressed_entry(const struct qcow2 *s, int64_t host,
                                int64_t bytes);
/* Where the compressed data of an L2 entry is. */
void qcow2_compressed_extent(const struct qcow2 *s, uint64_t entry,
                             int64_t *host, int64_t *bytes);
int co_qcow2_read_compressed(struct qcow2 *s, uint64_t entry, int64_t skip,
                             const struct iov *iov);

/* ---- repair.c ---- */
/* Rebuilds all refcounts from the tables that refer to clusters. */
bool co_qcow2_repair_refcounts(struct qcow2 *s, GError **error);

/* ---- downgrade.c ---- */
/* False and *error if the image cannot become one of version 2. */
bool co_qcow2_check_downgrade(struct qcow2 *s, GError **error);
/* Zero clusters of the disk become holes or data. 0, -errno, or -ECANCELED if
 * the request's progress says so. */
int co_qcow2_expand_zeroes(struct qcow2 *s, struct amend_request *request);

/* ---- amend.c ---- */
bool co_qcow2_amend(struct node *node, struct amend_request *request,
                    GError **error);

/* ---- check.c ---- */
bool co_qcow2_check(struct node *node, struct check_report *check,
                    GError **error);

/* ---- preallocate.c ---- */
/* Places for the guest clusters behind `old` of a disk that is to have `size`
 * bytes, with the blocks of the file as the mode says; what is there reads as
 * zeroes. On failure the caller unmaps the range. */
bool co_qcow2_preallocate(struct qcow2 *s, int64_t old, int64_t size,
                          enum prealloc_mode prealloc, GError **error);
/* A data file for a disk that grows. */
bool co_qcow2_lengthen_external(struct qcow2 *s, int64_t old, int64_t size,
                                enum prealloc_mode prealloc, GError **error);

/* ---- trim.c ---- */
/* Lets go of the L2 tables that lie in [offset, end), where nothing is mapped.
 */
void co_qcow2_drop_tables(struct qcow2 *s, int64_t offset, int64_t end);
/* Cuts the file behind the last cluster in use, as far as that is possible. */
void co_qcow2_trim(struct qcow2 *s);

/* ---- resize.c ---- */
bool co_qcow2_truncate(struct node *node, int64_t size, bool exact,
                       enum prealloc_mode prealloc, unsigned flags,
                       GError **error);

/* Makes the L1 table larger; 0 or -errno. */
int co_qcow2_grow_l1(struct qcow2 *s, uint32_t entries);

/* ---- vmstate.c ---- */
/* Where the state of a machine begins if the disk has `size` bytes. */
int64_t qcow2_vmstate_offset(const struct qcow2 *s, int64_t size);
int co_qcow2_save_vmstate(struct node *node, int64_t offset,
                          const struct iov *iov);
int co_qcow2_load_vmstate(struct node *node, int64_t offset,
                          const struct iov *iov);
/* Before the disk gets another size: drops the state if it would have to be
 * elsewhere. */
int co_qcow2_move_vmstate(struct qcow2 *s, int64_t size);

/* ---- measure.c ---- */
bool co_qcow2_measure(const struct create_params *params, struct node *source,
                      struct image_measure *measure, GError **error);

/* ---- create.c ---- */
bool co_qcow2_create(const struct blockdev_create_options *options,
                     GError **error);
bool co_qcow2_create_file(const char *filename,
                          const struct create_params *params, GError **error);

#endif
