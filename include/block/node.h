/*
 * A node: one opened driver instance in the graph, and its life.
 *
 * A node lives on exactly one loop, and every function here is called on it. It
 * exists as long as somebody holds a reference: edges of parents, the monitor
 * (blockdev-add), or a caller that opened it. Members marked private are
 * written by block/ only; drivers may read them all.
 */
#ifndef VARVE_BLOCK_NODE_H
#define VARVE_BLOCK_NODE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include "aio/colock.h"
#include "block/driver.h"
#include "block/types.h"

struct graph;
struct loop;
struct dirty_bitmap;
struct tracked_request;

LIST_HEAD(edge_list, edge);
LIST_HEAD(bitmap_list, dirty_bitmap);
TAILQ_HEAD(tracked_list, tracked_request);

struct node {
    const struct block_driver *driver;
    void *state; /* of the driver */
    struct graph *graph;
    struct loop *loop;

    /* hot: looked at by every request */
    int64_t length; /* bytes; what parents see */
    struct block_limits limits;
    bool read_only;
    bool no_flush; /* cache.no-flush: flush does nothing */
    bool discard;  /* discard=unmap: pass discards on */
    bool bulk;     /* see node_expect_bulk() */
    enum blockdev_detect_zeroes_options detect_zeroes;
    struct edge *file;           /* primary or filtered child, or NULL */
    struct edge *backing;        /* COW child, or NULL */
    struct bitmap_list bitmaps;  /* private */
    struct tracked_list tracked; /* private */
    unsigned serialising;        /* private: tracked ones that serialise */
    unsigned in_flight;          /* private */
    unsigned drained; /* private: open drained sections, here or below */
    uint64_t write_gen, flush_gen; /* private: skips needless flushes */
    int64_t wr_highest_offset;     /* end of the furthest write, for queries */
    struct co_mutex flush_lock;    /* private */

    /* cold */
    char *name;              /* node-name; generated ones start with '#' */
    char *filename;          /* for people; never NULL after open */
    unsigned refs;           /* private */
    unsigned drain_sections; /* private: open ones of this very node */
    unsigned drain_due;      /* private: what drained is to become */
    uint64_t visited;        /* private: the last graph walk that came by */
    uint64_t serial;         /* in order of making, over all loops */
    bool opened;             /* private: co_open has succeeded */
    struct node *opened_for; /* private: who opens this node as a child now */
    struct node *ready_file; /* private: what probing opened as "file" */
    bool monitor_owned;      /* blockdev-add holds a reference */
    bool turning_read_only;  /* private: by a reopen in progress */
    bool force_share;        /* option: lock nothing */
    bool auto_read_only;     /* option */
    bool no_backing;         /* the backing file that it names is not open */
    bool for_check, probed, no_data; /* see struct open_defaults */
    bool cache_direct;
    bool unusable; /* takes no more writes, and the driver has said why */
    char *backing_filename;           /* as the image stores it, or NULL */
    char *backing_format;             /* as the image stores it, or NULL */
    struct edge_list children;        /* private */
    struct edge_list parents;         /* private */
    unsigned perm, shared;            /* private: cumulative of the parents */
    struct blockdev_options *options; /* as opened, for queries */
    int64_t write_threshold;          /* bytes, 0 = off */
    TAILQ_ENTRY(node) link;           /* private: the graph's list */
};

struct node *node_ref(struct node *node);
/* Drops a reference; the last one flushes and closes the node. Suspends. */
void co_node_unref(struct node *node);

/* By node-name on the current loop's graph; NULL and *error if there is none.
 * Not a reference. */
struct node *node_find(const char *name, GError **error);
/* A backend's name, a device's id, or a node-name, as QMP's "device" and "node"
 * take them (either may be NULL); NULL and *error if nothing has it. */
struct node *node_lookup(const char *device, const char *node_name,
                         GError **error);

/* From now on the node is read, or written by several requests in flight, from
 * one end to the other, and its loop does nothing else: what lies in it may
 * trade latency for speed. */
void node_expect_bulk(struct node *node);
bool node_is_filter(const struct node *node);
/* The first node at or below that is no filter. */
struct node *node_skip_filters(struct node *node);
/* What lies behind: through filters, then the COW child; NULL at the end. */
struct node *node_backing_chain_next(struct node *node);
/* One step down that chain: the filtered or the backing child, or NULL. */
struct node *node_chain_below(struct node *node);
/* True if base is node, or in the chain below it (filters and backing). */
bool node_chain_contains(struct node *node, struct node *base);
/* "json:{...}" of the options that decide the content; g_free() it. */
char *node_json_filename(struct node *node);
/* For drivers: the same becomes node->filename. */
void node_refresh_json_filename(struct node *node);
int co_node_get_info(struct node *node, struct node_info *info);
int64_t co_node_allocated_size(struct node *node);

/* ---- opening (block/open.c) ---- */

/* What a file name does not say; zero is a writable node with host caching. */
struct open_defaults {
    bool read_only, auto_read_only, force_share;
    bool cache_direct, no_flush, discard_unmap;
    bool no_backing; /* what the image names stays closed */
    bool no_data; /* only metadata are looked at: nor is a data file opened */
    bool probed;  /* raw, because nothing else was recognised */
    /* Nothing but a check will be done: nothing is refused or repaired because
     * the image is damaged, nothing is marked. */
    bool check;
};

/* node->backing_filename as the name of a file, relative to node's own. NULL
 * and *error if there is nothing that it could be relative to. */
char *node_full_backing_filename(const struct node *node, GError **error);
/* Changes the options of open nodes, which their node-names pick, all at once
 * or not at all: read-only and cache settings, discard, detect-zeroes, file and
 * backing references, and what their drivers can change. Options that are left
 * out go back to their defaults. On the graph's loop with change_lock held;
 * suspends. */
bool co_nodes_reopen(const struct blockdev_options *const *options, size_t n,
                     GError **error);
/* False if the node's driver can change nothing. */
bool node_check_reopens(const struct node *node, GError **error);
/* Opens a node and, through its driver, its children; the caller owns the one
 * reference. Suspends. */
struct node *co_node_open(const struct blockdev_options *options,
                          GError **error);
/* The same, with something else where the options say nothing. */
struct node *co_node_open_with(const struct blockdev_options *options,
                               const struct open_defaults *defaults,
                               GError **error);
/* From a file name as given on a command line or found in an image: plain path,
 * "file:path", "json:{...}". format NULL probes. defaults may be NULL. The
 * caller owns the reference. Suspends. */
struct node *co_node_open_filename(const char *filename, const char *format,
                                   const struct open_defaults *defaults,
                                   GError **error);
/* The format of what the options of a protocol name, by its first bytes; opens
 * it for reading only, beside whoever uses it. false and *error. Suspends. */
bool co_node_probe(const struct blockdev_options *protocol,
                   enum blockdev_driver *format, GError **error);
/* For co_open of a driver: opens, or looks up by node-name, the child that ref
 * names and attaches it; sets node->file or node->backing by role. The child
 * takes over cache and read-only settings that its options do not give. NULL
 * and *error; a NULL ref is the missing parameter child_name. Suspends. */
struct edge *co_node_open_child(struct node *parent,
                                const struct blockdev_ref *ref,
                                const char *child_name, unsigned roles,
                                GError **error);
/* For formats: opens node->backing_filename (as node->backing_format), or what
 * the option ref says instead (definition, reference, or JSON null for none);
 * a relative name is relative to the node's own file. true and no
 * node->backing if there is none. */
bool co_node_open_backing(struct node *node,
                          const struct blockdev_ref_or_null *ref,
                          GError **error);
/* Stores another backing file in the image that node is, NULL or "" for none;
 * which node is behind it does not change. The node is flushed first. Suspends.
 */
bool co_node_change_backing(struct node *node, const char *file,
                            const char *format, GError **error);
/* Drops what the layer holds; 0 or -errno, -ENOTSUP if it cannot. Suspends. */
int co_node_make_empty(struct node *node);

/* ---- for queries (block/query.c); plain structs, caller frees ---- */

struct block_device_info *co_node_query(struct node *node, bool flat,
                                        GError **error);
struct image_info *co_node_query_image(struct node *node, bool flat,
                                       GError **error);

#endif
