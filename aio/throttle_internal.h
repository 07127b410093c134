/*
 * A throttle group as its two files see it: throttle_group.c has its life and
 * its limits, throttle.c who goes next.
 */
#ifndef VARVE_AIO_THROTTLE_INTERNAL_H
#define VARVE_AIO_THROTTLE_INTERNAL_H

#include <pthread.h>
#include <sys/queue.h>
#include "aio/throttle.h"
#include "util/bucket.h"

struct throttle_group {
    char *name;
    unsigned refs; /* with registry_lock */
    LIST_ENTRY(throttle_group) link;

    pthread_mutex_t lock; /* of all below */
    struct throttle_config config;
    struct bucket bytes[THROTTLE_SCOPES], ops[THROTTLE_SCOPES];
    unsigned limited; /* 1 << direction; read without the lock */
    TAILQ_HEAD(, throttle_member) members;
    struct throttle_member *turn[THROTTLE_DIRECTIONS]; /* NULL: none waits */
};

/* ---- throttle_group.c ---- */

struct throttle_group *throttle_group_ref(struct throttle_group *group);
/* With the lock, on a loop: nanoseconds until the next request in that
 * direction may go, and what it uses up. */
int64_t throttle_group_delay(struct throttle_group *g,
                             enum throttle_direction d);
void throttle_group_account(struct throttle_group *g, enum throttle_direction d,
                            int64_t bytes);

/* ---- throttle.c ---- */

/* With the lock: whoever has a turn looks at the limits again. */
void throttle_group_look_again(struct throttle_group *g);

#endif
