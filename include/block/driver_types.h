/*
 * What drivers and the engine tell each other.
 */
#ifndef VARVE_BLOCK_DRIVER_TYPES_H
#define VARVE_BLOCK_DRIVER_TYPES_H

#include <stdbool.h>
#include <stdint.h>
#include "qapi/types.h"

struct node;

enum driver_kind {
    DRIVER_PROTOCOL, /* no data child: file, null-co, nbd */
    DRIVER_FORMAT,   /* interprets a child: raw, qcow2 */
    DRIVER_FILTER,   /* shows its "file" child's data: copy-before-write */
};

/* Set by co_open (and refresh_limits); 0 means "no limit" or the default. */
struct block_limits {
    int64_t request_alignment; /* power of 2, at most 1 MiB; default 1 */
    int64_t max_transfer;      /* bytes of one read or write */
    int64_t opt_transfer;      /* preferred size */
    int64_t pwrite_zeroes_align;
    int64_t max_pwrite_zeroes;
    int64_t pdiscard_align;
    int64_t max_pdiscard;
    int64_t memory_alignment; /* of each piece of memory and its length; at most
                                 request_alignment; default 1 */
};

/* What every node has, whatever its driver. */
struct node_settings {
    bool read_only, auto_read_only, force_share;
    bool discard; /* unmap */
    bool cache_direct, no_flush;
    enum blockdev_detect_zeroes_options detect_zeroes;
};

/* What a node is to be by a reopen; the node itself is still as it was. */
struct node_reopen {
    const struct blockdev_options *options;
    struct node_settings *settings; /* prepare may make it read-only */
    struct node *file;              /* the primary child to be, or NULL */
};

/* A reopen of a drained node: co_prepare, then one of co_commit and co_abort,
 * which find the node as it has become, or as it was. Each is optional. */
struct reopen_ops {
    /* Options of the driver that may change, by name; NULL-terminated, or
     * NULL: none. */
    const char *const *mutable_options;
    bool (*co_prepare)(struct node *node, const struct node_reopen *to,
                       GError **error);
    void (*co_commit)(struct node *node,
                      const struct blockdev_options *options);
    void (*co_abort)(struct node *node);
    /* After the commit: the node, and what is below, may be written now. On
     * failure the engine makes it read-only again. */
    bool (*co_writable)(struct node *node, GError **error);
};

struct node_info {
    int64_t cluster_size;    /* 0 = has no clusters */
    bool is_dirty;           /* unclean shutdown flag of the format */
    int64_t vm_state_offset; /* where the state of a machine would begin */
};

/* Arguments of an image creation that every format understands. */
struct create_params {
    int64_t size;               /* bytes; -1 = that of the backing file */
    const char *backing_file;   /* NULL = none */
    const char *backing_format; /* NULL = unknown */
    const char *extra; /* "cluster_size=64k,..." as after -o, or NULL */
};

/* What an amend of an image is asked for, and who follows it. */
struct amend_request {
    const char *text; /* "compat=0.10,size=4G" as after -o; or NULL, and: */
    const struct blockdev_amend_options *options;
    /* Told of bytes that are done, and of further ones that will have to be;
     * false ends it where it is. May be NULL; may suspend. */
    bool (*co_progress)(struct amend_request *request, int64_t done,
                        int64_t more);
    void *opaque;
};

/* How large a new image would be, in bytes. */
struct image_measure {
    int64_t required;        /* with the data that the source has */
    int64_t fully_allocated; /* once every byte of the disk is written */
    int64_t bitmaps;         /* for the source's persistent bitmaps; -1: the
                                format, or the source, has none */
};

#endif
