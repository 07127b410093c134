/*
 * What a block driver is: one constant table at the end of its file.
 * Every function is optional. What is missing is forwarded to the primary child
 * by a filter, and is "not supported" (-ENOTSUP, or an error text that names
 * the driver) for a protocol or format. All co_ functions run on the node's
 * loop and may suspend; the others must not. Data functions return 0 or a
 * negative errno.
 *
 * The request path (block/request.c) has done this before a driver is called:
 * the range lies within the node (or extends it, for a growing write to a
 * protocol), offset and bytes are multiples of limits.request_alignment, memory
 * is aligned to limits.memory_alignment, bytes is at most limits.max_transfer,
 * writes are tracked and overlapping serialising ones have been waited for. It
 * marks dirty bitmaps, and emulates REQ_FUA for drivers without it, afterwards.
 */
#ifndef VARVE_BLOCK_DRIVER_H
#define VARVE_BLOCK_DRIVER_H

#include <glib.h>
#include <stddef.h>
#include "block/driver_types.h"
#include "block/types.h"
#include "qapi/types.h"
#include "util/iov.h"

struct breaks;
struct check_report;
struct edge;
struct node;
struct snapshot_ops;
struct block_driver {
    const char *name; /* value of BlockdevDriver */
    enum driver_kind kind;
    size_t state_size;        /* node->state: this many zeroed bytes */
    bool supports_backing;    /* has a child "backing" */
    bool writes_fua;          /* writes and write-zeroes honour REQ_FUA */
    bool writes_grow;         /* a format that grows as its file does: raw */
    bool writes_compressed;   /* writes honour REQ_COMPRESSED */
    bool zeroes_unmap;        /* write-zeroes honours REQ_MAY_UNMAP */
    bool unmapped_reads_zero; /* discarded ranges read as zeroes */
    bool flushes_children;    /* in co_flush and co_write_back, by itself */

    /* Opens the children with co_node_open_child(), reads metadata, sets
     * node->length and node->limits. On failure the engine closes children;
     * co_open undoes the rest itself. */
    bool (*co_open)(struct node *node, const struct blockdev_options *options,
                    GError **error);
    /* Writes out what is cached. Children are still attached. */
    void (*co_close)(struct node *node);
    /* Another child, or one fewer, for an open node that is drained. */
    bool (*co_add_child)(struct node *node, struct node *child, GError **error);
    bool (*co_del_child)(struct node *node, struct edge *edge, GError **error);

    const struct reopen_ops *reopen; /* missing: refused by name */

    int (*co_preadv)(struct node *node, int64_t offset, int64_t bytes,
                     const struct iov *iov, unsigned flags);
    int (*co_pwritev)(struct node *node, int64_t offset, int64_t bytes,
                      const struct iov *iov, unsigned flags);
    /* Cut at multiples of limits.pwrite_zeroes_align; what is left at either
     * end comes by itself. -ENOTSUP: the engine writes a zero buffer there. */
    int (*co_pwrite_zeroes)(struct node *node, int64_t offset, int64_t bytes,
                            unsigned flags);
    /* Multiples of limits.pdiscard_align, but for an end at the node's end. */
    int (*co_pdiscard)(struct node *node, int64_t offset, int64_t bytes);
    /* Makes completed writes stable: the format's caches into the child, and
     * for a protocol the file onto the medium. The engine flushes the data and
     * metadata children after a format's or filter's own co_flush. */
    int (*co_flush)(struct node *node);
    /* Hands what completed writes have left in this process to the child, so
     * that it survives the process; nothing need be stable. */
    int (*co_write_back)(struct node *node);
    /* About [offset, offset + bytes), aligned; fills *status for a run that
     * starts at offset. want_zero false: an exact ZERO flag is not needed, so
     * answer fast. */
    int (*co_block_status)(struct node *node, bool want_zero, int64_t offset,
                           int64_t bytes, struct block_status *status);
    /* Current length in bytes (a protocol may look at the file), or -errno. */
    int64_t (*co_getlength)(struct node *node);
    /* Changes the length; the engine sets node->length after success. exact:
     * not even rounding up is allowed. A driver with a backing file calls
     * co_node_hide_backing(), and has the zeroes on disk before the length. */
    bool (*co_truncate)(struct node *node, int64_t size, bool exact,
                        enum prealloc_mode prealloc, unsigned flags,
                        GError **error);
    /* Copies inside the storage, for instance copy_file_range; -ENOTSUP makes
     * the engine's caller read and write. Both nodes run this driver. */
    int (*co_copy_range)(struct node *src, int64_t src_offset, struct node *dst,
                         int64_t dst_offset, int64_t bytes, unsigned flags);
    /* For formats that keep bitmaps in the image. A persistent bitmap is stored
     * when the node is closed; whether that will be possible is asked when it
     * is made. Its removal from the image takes effect at once; it is no error
     * if it is not there. */
    bool (*can_store_bitmap)(struct node *node, const char *name,
                             int64_t granularity, GError **error);
    bool (*co_remove_stored_bitmap)(struct node *node, const char *name,
                                    GError **error);
    /* Drops damaged bitmaps that have no usable name; *dropped: how many. */
    bool (*co_repair_bitmaps)(struct node *node, unsigned *dropped,
                              GError **error);
    /* The state of a machine, which is kept beside the disk, at `offset` of it;
     * what was never written reads as zeroes. Both or none. */
    int (*co_save_vmstate)(struct node *node, int64_t offset,
                           const struct iov *iov);
    int (*co_load_vmstate)(struct node *node, int64_t offset,
                           const struct iov *iov);
    const struct snapshot_ops *snapshots; /* within the image */
    int (*co_get_info)(struct node *node, struct node_info *info);
    /* Bytes that the storage really takes, or -errno. */
    int64_t (*co_allocated_size)(struct node *node);
    /* Compares the metadata with themselves and changes nothing. False only if
     * that could not be done. */
    bool (*co_check)(struct node *node, struct check_report *check,
                     GError **error);
    /* What an image that params ask for would take; source, which may be NULL,
     * tells what its data would be. Needs no open node of this driver. */
    bool (*co_measure)(const struct create_params *params, struct node *source,
                       struct image_measure *measure, GError **error);
    /* Stores another backing file in the image, or NULL; not in the graph. */
    bool (*co_change_backing)(struct node *node, const char *file,
                              const char *format, GError **error);
    /* Changes the options of an existing image, while nobody else writes to
     * it. */
    bool (*co_amend)(struct node *node, struct amend_request *request,
                     GError **error);
    /* Lets go of all that this layer holds: the backing file shows through. */
    int (*co_make_empty)(struct node *node);
    /* Format part of query answers, or NULL. Caller frees. */
    struct image_info_specific *(*co_query_specific)(struct node *node);
    /* Statistics that no other driver has, or NULL. Caller frees. */
    struct block_stats_specific *(*query_stats)(const struct node *node);
    /* How I/O is done now, for people: "auto: native"; caller frees. */
    char *(*io_engine)(struct node *node);
    /* Recomputes node->limits after a child changed. */
    void (*refresh_limits)(struct node *node);
    /* What this node needs from, and shares of, a child, given what its own
     * parents need and share. Missing: the rule for the edge's roles. */
    void (*child_perm)(struct node *node, const struct edge *child,
                       unsigned roles, unsigned parent_perm,
                       unsigned parent_shared, unsigned *perm,
                       unsigned *shared);
    /* Parents' permissions change to (perm, shared): get ready (take locks,
     * reopen writable); then one of commit and abort is called. */
    bool (*perm_prepare)(struct node *node, unsigned perm, unsigned shared,
                         GError **error);
    void (*perm_commit)(struct node *node);
    void (*perm_abort)(struct node *node);
    /* After the commit of a whole change; may make another one. */
    void (*co_perm_changed)(struct node *node);
    /* Stop and resume work of the node's own that no request asked for. */
    void (*drain_begin)(struct node *node);
    void (*drain_end)(struct node *node);
    /* The program ends: nobody outside is waited for. */
    void (*give_up)(struct node *node);
    /* blockdev-create: makes an image in the node or file that the options
     * name. Needs no open node of this driver. */
    bool (*co_create)(const struct blockdev_create_options *options,
                      GError **error);
    /* Creates the file `filename` from plain parameters; a format creates the
     * protocol's file first. */
    bool (*co_create_file)(const char *filename,
                           const struct create_params *params, GError **error);
    /* Takes away what co_create_file() of a protocol made, if it can. */
    void (*co_delete_file)(const char *filename);
    /* How sure this driver is that the first bytes are its format: 0..100. */
    int (*probe)(const uint8_t *head, size_t bytes, const char *filename);
    /* Names of the options that decide the content; missing: all. The others
     * are left out of names. */
    const char *const *strong_options;
    /* Sets node->filename, the name for people. Missing: the primary child's
     * name if the driver is a filter, or no optional strong option is given;
     * else "json:{...}". */
    void (*refresh_filename)(struct node *node);
    /* blkdebug's events; a node without it passes them down. */
    void (*co_debug_event)(struct node *node, enum blkdebug_event event);
    /* Where the node keeps breakpoints; missing: the primary child may. */
    struct breaks *(*breaks)(struct node *node);
};

/* All drivers, sorted by name, NULL-terminated. */
extern const struct block_driver *const block_drivers[];
const struct block_driver *block_driver_find(const char *name);
/* The one whose format these first bytes of a file are. */
const struct block_driver *block_probe(const uint8_t *head, size_t bytes,
                                       const char *filename);
/* True for a driver whose options have a child "file". */
bool block_driver_has_file(const char *name);

#endif
