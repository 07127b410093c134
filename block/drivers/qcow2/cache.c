/*
 * The metadata cache; see cache.h.
 *
 * Replacement is by the clock algorithm: a hit sets one flag and moves nothing.
 * Entries that are dirty, being written or being loaded stay; when only such
 * are left, the dirty ones are cleaned, and if that gives no room either, the
 * cache grows by an entry, which the number of requests in flight bounds.
 *
 * Memory is taken when a slice is first read, so a large limit costs nothing by
 * itself. Runs on the node's loop.
 */
#include "block/drivers/qcow2/cache.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include "block/graph.h"
#include "block/request.h"

#define WRITES_IN_FLIGHT 16

static struct node *cache_file(const struct meta_cache *c)
{
    return c->node->file->child;
}

void meta_cache_init(struct meta_cache *c, struct node *node,
                     unsigned slice_size, unsigned capacity)
{
    c->node = node;
    c->slice_size = slice_size;
    c->capacity = MAX(capacity, 4);
    c->hash_bits = g_bit_storage(c->capacity * 2 - 1);
    c->buckets = g_new0(struct meta_entry *, (size_t)1 << c->hash_bits);
    c->entries = g_ptr_array_new();
    cache_memory_init(&c->memory, node, slice_size, c->capacity);
    TAILQ_INIT(&c->dirty);
    TAILQ_INIT(&c->writing);
}

static void entry_free(struct meta_cache *c, struct meta_entry *e)
{
    cache_memory_put(&c->memory, e->data);
    cache_memory_put(&c->memory, e->frozen);
    g_free(e);
}

void meta_cache_destroy(struct meta_cache *c)
{
    meta_cache_clean_stop(c);
    for (unsigned i = 0; c->entries && i < c->entries->len; i++) {
        entry_free(c, g_ptr_array_index(c->entries, i));
    }
    if (c->entries) {
        g_ptr_array_free(c->entries, true);
        cache_memory_destroy(&c->memory);
    }
    g_free(c->buckets);
    c->entries = NULL;
    c->buckets = NULL;
}

/* ---- the index ----------------------------------------------------------- */

static void unhash(struct meta_cache *c, struct meta_entry *e)
{
    struct meta_entry **p = meta_cache_bucket(c, e->key);

    while (*p != e) {
        p = &(*p)->hash_next;
    }
    *p = e->hash_next;
}

static void rehash(struct meta_cache *c, struct meta_entry *e, uint64_t key)
{
    struct meta_entry **p = meta_cache_bucket(c, key);

    e->key = key;
    e->hash_next = *p;
    *p = e;
}

static bool evictable(const struct meta_entry *e)
{
    return !e->loading && !e->dirty && !e->writing;
}

/* A clean entry that was not used lately, taken out of the index; or NULL. */
static struct meta_entry *evict(struct meta_cache *c)
{
    for (unsigned n = 2 * c->entries->len; n; n--) {
        if (c->hand >= c->entries->len) {
            c->hand = 0;
        }
        struct meta_entry *e = g_ptr_array_index(c->entries, c->hand++);
        if (!evictable(e)) {
            continue;
        }
        if (e->used) {
            e->used = false;
            continue;
        }
        unhash(c, e);
        return e;
    }
    return NULL;
}

static struct meta_entry *entry_new(struct meta_cache *c)
{
    void *data = cache_memory_get(&c->memory);

    if (!data) {
        return NULL;
    }
    struct meta_entry *e = g_new0(struct meta_entry, 1);
    e->data = data;
    g_ptr_array_add(c->entries, e);
    meta_cache_clean_soon(c);
    return e;
}

/* Room for one more entry, not in the index. *e is NULL when this suspended:
 * then the caller must look the key up again. *cleaned: cleaning was tried. */
static int co_room(struct meta_cache *c, struct meta_entry **e, bool *cleaned)
{
    *e = NULL;
    if (c->entries->len >= c->capacity) {
        *e = evict(c);
        if (*e) {
            return 0;
        }
        if (c->n_dirty && !*cleaned) {
            int ret = c->co_clean(c->opaque);
            /* A disk that takes no writes may still be read, for a while. */
            *cleaned = ret < 0;
            return c->entries->len < c->capacity + MAX(c->capacity, 64) ? 0
                                                                        : ret;
        }
    }
    *e = entry_new(c);
    return *e ? 0 : -ENOMEM;
}

static struct meta_entry *lookup(struct meta_cache *c, uint64_t key)
{
    struct meta_entry *e = *meta_cache_bucket(c, key);

    while (e && e->key != key) {
        e = e->hash_next;
    }
    return e;
}

static int co_load(struct meta_cache *c, struct meta_entry *e)
{
    co_node_debug_event(cache_file(c), c->load_event);
    int ret =
        co_node_pread(cache_file(c), e->offset, e->data, c->slice_size, 0);

    e->loading = false;
    if (ret < 0) {
        unhash(c, e);
        g_ptr_array_remove_fast(c->entries, e);
    }
    co_queue_wake_all(&e->loaded);
    if (ret < 0) {
        entry_free(c, e);
    }
    return ret;
}

int co_meta_cache_get(struct meta_cache *c, uint64_t key, int64_t offset,
                      struct meta_entry **out)
{
    bool cleaned = false, waited = false;

    for (;; waited = true) {
        struct meta_entry *e = lookup(c, key);
        if (e && !e->loading) {
            e->used = true;
            *out = e;
            return 0;
        }
        if (e) {
            co_queue_wait(&e->loaded);
            continue;
        }
        if (waited && c->place) {
            offset = c->place(c->opaque, key);
        }
        if (!offset) {
            return -ENOENT;
        }
        int ret = co_room(c, &e, &cleaned);
        if (ret < 0) {
            return ret;
        }
        if (!e) {
            continue;
        }
        e->offset = offset;
        e->loading = true;
        rehash(c, e, key);
        ret = co_load(c, e);
        if (ret < 0) {
            return ret;
        }
        /* It cannot have gone: nothing has run since the read. */
        e->used = true;
        *out = e;
        return 0;
    }
}

bool meta_cache_busy(struct meta_cache *c, uint64_t key)
{
    const struct meta_entry *e = lookup(c, key);

    return e && (e->loading || e->writing);
}

void meta_cache_drop(struct meta_cache *c, uint64_t key)
{
    struct meta_entry *e = lookup(c, key);

    if (!e) {
        return;
    }
    assert(!e->loading && !e->writing);
    if (e->dirty) {
        TAILQ_REMOVE(&c->dirty, e, dirty_link);
        c->n_dirty--;
    }
    unhash(c, e);
    g_ptr_array_remove_fast(c->entries, e);
    entry_free(c, e);
}

void meta_cache_move(struct meta_cache *c, uint64_t key, uint64_t n,
                     int64_t distance)
{
    for (; n; n--, key++) {
        struct meta_entry *e = lookup(c, key);
        if (e) {
            e->offset += distance;
        }
    }
}

void meta_cache_forget(struct meta_cache *c)
{
    while (c->entries->len) {
        const struct meta_entry *e = g_ptr_array_index(c->entries, 0);
        meta_cache_drop(c, e->key);
    }
}

void meta_cache_drop_unused(struct meta_cache *c)
{
    unsigned i = 0;

    while (i < c->entries->len) {
        struct meta_entry *e = g_ptr_array_index(c->entries, i);
        if (e->used || !evictable(e)) {
            e->used = false;
            i++;
            continue;
        }
        unhash(c, e);
        g_ptr_array_remove_index_fast(c->entries, i);
        entry_free(c, e);
    }
}

/* ---- changes and writes -------------------------------------------------- */

static void mark_dirty(struct meta_cache *c, struct meta_entry *e)
{
    if (!e->dirty) {
        e->dirty = true;
        c->n_dirty++;
        TAILQ_INSERT_TAIL(&c->dirty, e, dirty_link);
    }
}

void meta_entry_change(struct meta_cache *c, struct meta_entry *e)
{
    assert(!e->loading);
    if (G_UNLIKELY(e->writing && !e->frozen)) {
        void *copy = cache_memory_get(&c->memory);
        if (!copy) {
            g_error("out of memory for a slice of %u bytes", c->slice_size);
        }
        memcpy(copy, e->data, c->slice_size);
        e->frozen = e->data;
        e->data = copy;
    }
    mark_dirty(c, e);
}

void meta_cache_freeze(struct meta_cache *c)
{
    struct meta_entry *e;

    assert(TAILQ_EMPTY(&c->writing));
    while ((e = TAILQ_FIRST(&c->dirty))) {
        TAILQ_REMOVE(&c->dirty, e, dirty_link);
        e->dirty = false;
        e->writing = true;
        TAILQ_INSERT_TAIL(&c->writing, e, write_link);
    }
    c->n_dirty = 0;
}

static void thaw(struct meta_cache *c, struct meta_entry *e, bool written)
{
    TAILQ_REMOVE(&c->writing, e, write_link);
    e->writing = false;
    cache_memory_put(&c->memory, e->frozen);
    e->frozen = NULL;
    if (!written) {
        mark_dirty(c, e);
    }
}

void meta_cache_unfreeze(struct meta_cache *c)
{
    struct meta_entry *e;

    while ((e = TAILQ_FIRST(&c->writing))) {
        thaw(c, e, false);
    }
}

static int co_write_slice(struct meta_cache *c, const struct meta_entry *e,
                          unsigned flags)
{
    co_node_debug_event(cache_file(c), c->write_event);
    return co_node_pwrite(cache_file(c), e->offset,
                          e->frozen ? e->frozen : e->data, c->slice_size,
                          flags);
}

struct slice_writer {
    struct meta_cache *cache;
    struct meta_entry *next; /* the first that nobody writes yet */
    unsigned flags;
    int result;
};

/* One of several that share the list. The entries stay on it, so that a failure
 * makes all of them dirty again. */
static int co_slice_writer(void *opaque)
{
    struct slice_writer *w = opaque;

    while (w->next && w->result == 0) {
        struct meta_entry *e = w->next;
        w->next = TAILQ_NEXT(e, write_link);
        int ret = co_write_slice(w->cache, e, w->flags);
        if (ret < 0) {
            w->result = ret;
        }
    }
    return 0;
}

int co_meta_cache_write(struct meta_cache *c, unsigned flags)
{
    struct slice_writer w = {c, TAILQ_FIRST(&c->writing), flags, 0};
    struct meta_entry *e;

    if (w.next && !TAILQ_NEXT(w.next, write_link)) {
        co_slice_writer(&w);
    } else if (w.next) {
        struct co_pool pool = {.limit = WRITES_IN_FLIGHT};
        for (unsigned i = 0; i < WRITES_IN_FLIGHT && w.next; i++) {
            co_pool_start(&pool, co_slice_writer, &w);
        }
        co_pool_wait(&pool);
    }
    while ((e = TAILQ_FIRST(&c->writing))) {
        thaw(c, e, w.result == 0);
    }
    return w.result;
}

int co_meta_cache_write_all(struct meta_cache *c)
{
    co_mutex_lock(&c->write_lock);
    meta_cache_freeze(c);
    int ret = co_meta_cache_write(c, 0);
    co_mutex_unlock(&c->write_lock);
    return ret;
}

static bool mark_range_dirty(struct meta_cache *c, uint64_t first,
                             uint64_t last)
{
    for (uint64_t key = first; key <= last; key++) {
        struct meta_entry *e = meta_cache_find(c, key);
        if (!e) {
            return false;
        }
        mark_dirty(c, e);
    }
    return true;
}

int co_meta_cache_write_stable(struct meta_cache *c, uint64_t first,
                               uint64_t last, unsigned max)
{
    int ret = -EBUSY;

    co_mutex_lock(&c->write_lock);
    if (last - first < max && !mark_range_dirty(c, first, last)) {
        ret = -ENOENT;
    } else if (last - first < max && c->n_dirty <= max) {
        meta_cache_freeze(c);
        ret = co_meta_cache_write(c, REQ_FUA);
    }
    co_mutex_unlock(&c->write_lock);
    return ret;
}
