/*
 * A cache of metadata: pieces ("slices") of L2 tables or of refcount blocks.
 *
 * Keys are indices of slices in the order of what they describe, so a look-up
 * needs no other table. Entries hold the bytes of the disk. Written back: a
 * changed slice stays in memory until its cache is frozen and written. Freezing
 * fixes the content that goes to disk; a slice that changes meanwhile is copied
 * first, so what depends on the order of writes never sees later changes.
 *
 * An entry pointer is good until the caller suspends. On the node's loop.
 */
#ifndef VARVE_BLOCK_DRIVERS_QCOW2_CACHE_H
#define VARVE_BLOCK_DRIVERS_QCOW2_CACHE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include "aio/colock.h"
#include "aio/timer.h"

struct node;

struct meta_entry {
    uint64_t key;
    int64_t offset; /* in the file */
    void *data;
    void *frozen; /* what is being written, once data has moved on */
    struct meta_entry *hash_next;
    TAILQ_ENTRY(meta_entry) dirty_link, write_link;
    struct co_queue loaded;
    bool used; /* since the clock hand came by */
    bool loading, dirty, writing;
};
TAILQ_HEAD(meta_list, meta_entry);

/* see cache_memory.c */
struct cache_memory {
    struct node *node; /* whose "file" child reads into slices */
    size_t slice_size;
    char *base, *fresh, *end; /* NULL: all is from the heap */
    GArray *free;             /* places that have been given back */
};

struct meta_cache {
    struct node *node; /* whose "file" child it is about */
    unsigned slice_size;
    unsigned capacity; /* entries; loads in flight may exceed it */
    unsigned hash_bits;
    unsigned hand;
    unsigned n_dirty;
    struct meta_entry **buckets;
    GPtrArray *entries;
    struct meta_list dirty, writing;
    struct co_mutex write_lock; /* of co_meta_cache_write_all() */
    /* Makes dirty entries clean, for an eviction; 0 or -errno. */
    int (*co_clean)(void *opaque);
    /* Where the slice of key is in the file now; 0: nowhere any more. */
    int64_t (*place)(const void *opaque, uint64_t key);
    void *opaque;
    struct cache_memory memory;
    int load_event, write_event; /* enum blkdebug_event */
    /* see cache_clean.c */
    struct timer cleaner;
    int64_t clean_ns; /* 0: never */
    bool paused;
};

void meta_cache_init(struct meta_cache *c, struct node *node,
                     unsigned slice_size, unsigned capacity);
void meta_cache_destroy(struct meta_cache *c);

static inline struct meta_entry **meta_cache_bucket(struct meta_cache *c,
                                                    uint64_t key)
{
    return &c->buckets[(key * UINT64_C(0x9e3779b97f4a7c15)) >>
                       (64 - c->hash_bits)];
}

/* The entry of key if it is in memory, else NULL. */
static inline struct meta_entry *meta_cache_find(struct meta_cache *c,
                                                 uint64_t key)
{
    struct meta_entry *e = *meta_cache_bucket(c, key);

    while (e && e->key != key) {
        e = e->hash_next;
    }
    if (!e || G_UNLIKELY(e->loading)) {
        return NULL;
    }
    e->used = true;
    return e;
}

/* As meta_cache_find(), reading it from offset if need be. If it has moved
 * while there was no room for it, it is read from its new place; -ENOENT: it is
 * gone.
 */
int co_meta_cache_get(struct meta_cache *c, uint64_t key, int64_t offset,
                      struct meta_entry **e);
/* Call before each change of e->data (pointers into it become stale). Does not
 * suspend. */
void meta_entry_change(struct meta_cache *c, struct meta_entry *e);
/* The slices of n keys from `key` on, none of which is being loaded or written,
 * are elsewhere in the file from now on. */
void meta_cache_move(struct meta_cache *c, uint64_t key, uint64_t n,
                     int64_t distance);
/* Forgets all entries, none of which is being loaded or written. */
void meta_cache_forget(struct meta_cache *c);
/* Forgets an entry that is not being loaded or written; its content is lost. */
void meta_cache_drop(struct meta_cache *c, uint64_t key);
/* True while the entry is being loaded or written. */
bool meta_cache_busy(struct meta_cache *c, uint64_t key);

/* Forgets those that are clean and were not used since the last time, or since
 * the clock hand came by. Does not suspend. */
void meta_cache_drop_unused(struct meta_cache *c);

/* ---- cache_clean.c ---- */
/* Does that again and again; 0: no longer. Seconds. */
void meta_cache_clean_every(struct meta_cache *c, int64_t seconds);
/* An entry has come; all are going. */
void meta_cache_clean_soon(struct meta_cache *c);
void meta_cache_clean_stop(struct meta_cache *c);
/* While the node is drained nothing goes by itself. */
void meta_cache_pause(struct meta_cache *c);
void meta_cache_resume(struct meta_cache *c);

/* ---- cache_memory.c ---- */
void cache_memory_init(struct cache_memory *m, struct node *node,
                       size_t slice_size, size_t slices);
/* All slices must have been put back. */
void cache_memory_destroy(struct cache_memory *m);
/* A slice with any content; NULL without memory. */
void *cache_memory_get(struct cache_memory *m);
/* Takes it back; NULL is nothing. */
void cache_memory_put(struct cache_memory *m, void *slice);

/* What is dirty now becomes what co_meta_cache_write() writes; the caller lets
 * one coroutine at a time do both. Does not suspend. */
void meta_cache_freeze(struct meta_cache *c);
/* Writes what was frozen, with flags (0 or REQ_FUA); entries whose write fails
 * are dirty again. */
int co_meta_cache_write(struct meta_cache *c, unsigned flags);
/* The frozen entries are dirty again, unwritten. */
void meta_cache_unfreeze(struct meta_cache *c);
/* Freeze and write, for caches whose writes need no order. */
int co_meta_cache_write_all(struct meta_cache *c);
/* Writes the slices of keys [first, last], dirty or not, and what else is
 * dirty, so that each write is stable by itself. -ENOENT: not all of them are
 * in memory; -EBUSY: that would be more writes than max. */
int co_meta_cache_write_stable(struct meta_cache *c, uint64_t first,
                               uint64_t last, unsigned max);

#endif
