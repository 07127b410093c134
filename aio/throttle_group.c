/*
 * Throttle groups by name, and what they limit.
 *
 * The registry's lock and that of a group are held for some instructions, and
 * not together.
 */
#include "aio/throttle.h"

#include <assert.h>
#include <glib.h>
#include <string.h>
#include "aio/loop.h"
#include "aio/throttle_internal.h"

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static LIST_HEAD(, throttle_group) groups = LIST_HEAD_INITIALIZER(groups);

#define NO_BURST    \
    {               \
        .length = 1 \
    }

const struct throttle_config throttle_config_none = {
    .bytes = {NO_BURST, NO_BURST, NO_BURST},
    .ops = {NO_BURST, NO_BURST, NO_BURST},
};

/* ---- life ---------------------------------------------------------------- */

static struct throttle_group *find(const char *name)
{
    struct throttle_group *g;

    LIST_FOREACH (g, &groups, link) {
        if (!strcmp(g->name, name)) {
            return g;
        }
    }
    return NULL;
}

static struct throttle_group *add(const char *name)
{
    struct throttle_group *g = g_new0(struct throttle_group, 1);

    g->name = g_strdup(name);
    g->refs = 1;
    pthread_mutex_init(&g->lock, NULL);
    TAILQ_INIT(&g->members);
    g->config = throttle_config_none;
    LIST_INSERT_HEAD(&groups, g, link);
    return g;
}

struct throttle_group *throttle_group_new(const char *name)
{
    pthread_mutex_lock(&registry_lock);
    struct throttle_group *g = find(name) ? NULL : add(name);
    pthread_mutex_unlock(&registry_lock);
    return g;
}

static struct throttle_group *find_ref(const char *name)
{
    struct throttle_group *g = find(name);

    if (g) {
        g->refs++;
    }
    return g;
}

struct throttle_group *throttle_group_find(const char *name)
{
    pthread_mutex_lock(&registry_lock);
    struct throttle_group *g = find_ref(name);
    pthread_mutex_unlock(&registry_lock);
    return g;
}

struct throttle_group *throttle_group_find_or_new(const char *name)
{
    pthread_mutex_lock(&registry_lock);
    struct throttle_group *g = find_ref(name);
    if (!g) {
        g = add(name);
    }
    pthread_mutex_unlock(&registry_lock);
    return g;
}

struct throttle_group *throttle_group_ref(struct throttle_group *g)
{
    pthread_mutex_lock(&registry_lock);
    g->refs++;
    pthread_mutex_unlock(&registry_lock);
    return g;
}

static bool unref(struct throttle_group *g, bool only_last)
{
    pthread_mutex_lock(&registry_lock);
    bool last = g->refs == 1;
    if (last) {
        LIST_REMOVE(g, link);
    } else if (!only_last) {
        g->refs--;
    }
    pthread_mutex_unlock(&registry_lock);
    if (last) {
        assert(TAILQ_EMPTY(&g->members));
        pthread_mutex_destroy(&g->lock);
        g_free(g->name);
        g_free(g);
    }
    return last;
}

void throttle_group_unref(struct throttle_group *group)
{
    unref(group, false);
}

bool throttle_group_unref_last(struct throttle_group *group)
{
    return unref(group, true);
}

const char *throttle_group_name(const struct throttle_group *group)
{
    return group->name;
}

/* ---- limits -------------------------------------------------------------- */

static unsigned limited_directions(const struct throttle_config *c)
{
    unsigned set = 0;

    for (int i = 0; i < THROTTLE_SCOPES; i++) {
        if (c->bytes[i].avg || c->ops[i].avg) {
            set |= i == THROTTLE_TOTAL ? ~0u : 1u << i;
        }
    }
    return set;
}

bool throttle_config_limits(const struct throttle_config *config)
{
    return limited_directions(config) != 0;
}

int64_t throttle_group_delay(struct throttle_group *g,
                             enum throttle_direction d)
{
    int64_t now = loop_now_ns(loop_current()), longest = 0;
    struct bucket *const counts[] = {
        &g->bytes[d],
        &g->bytes[THROTTLE_TOTAL],
        &g->ops[d],
        &g->ops[THROTTLE_TOTAL],
    };

    for (size_t i = 0; i < G_N_ELEMENTS(counts); i++) {
        longest = MAX(longest, bucket_delay(counts[i], now));
    }
    return longest;
}

void throttle_group_account(struct throttle_group *g, enum throttle_direction d,
                            int64_t bytes)
{
    int64_t now = loop_now_ns(loop_current());
    double size = (double)bytes, op = (double)g->config.op_bytes;
    double ops = op > 0 && size > op ? size / op : 1;

    bucket_add(&g->bytes[d], size, now);
    bucket_add(&g->bytes[THROTTLE_TOTAL], size, now);
    bucket_add(&g->ops[d], ops, now);
    bucket_add(&g->ops[THROTTLE_TOTAL], ops, now);
}

void throttle_group_get(struct throttle_group *group,
                        struct throttle_config *config)
{
    pthread_mutex_lock(&group->lock);
    *config = group->config;
    pthread_mutex_unlock(&group->lock);
}

static struct bucket empty_bucket(const struct throttle_rate *r)
{
    return (struct bucket){
        .rate = r->avg,
        .burst = r->max,
        .seconds = r->length,
    };
}

void throttle_group_set(struct throttle_group *group,
                        const struct throttle_config *config)
{
    pthread_mutex_lock(&group->lock);
    group->config = *config;
    for (int i = 0; i < THROTTLE_SCOPES; i++) {
        group->bytes[i] = empty_bucket(&config->bytes[i]);
        group->ops[i] = empty_bucket(&config->ops[i]);
    }
    __atomic_store_n(&group->limited, limited_directions(config),
                     __ATOMIC_RELAXED);
    throttle_group_look_again(group);
    pthread_mutex_unlock(&group->lock);
}
