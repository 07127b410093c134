/*
 * Throttle groups: limits that requests of several members share, whichever
 * loops these are on.
 *
 * A member is a device or a node whose requests ask co_throttle() before they
 * go on. Of all members with requests that wait, one has the turn in each
 * direction: its first request is the next to go, as soon as every bucket that
 * it counts in allows it; then it is the next member's turn. So each gets as
 * many requests through as the others, however many it has waiting.
 *
 * Groups have names, which are theirs over all loops. They live as long as
 * somebody refers to them.
 */
#ifndef VARVE_AIO_THROTTLE_H
#define VARVE_AIO_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

struct throttle_group;
struct throttle_member;

enum throttle_direction {
    THROTTLE_READ,
    THROTTLE_WRITE,
    THROTTLE_DIRECTIONS,
};

/* Which requests a limit counts. */
enum throttle_scope {
    THROTTLE_READS = THROTTLE_READ,
    THROTTLE_WRITES = THROTTLE_WRITE,
    THROTTLE_TOTAL,
    THROTTLE_SCOPES,
};

struct throttle_rate {
    int64_t avg;    /* units a second; 0: no limit */
    int64_t max;    /* units a second in a burst; 0: no bursts */
    int64_t length; /* seconds that a burst may last */
};

struct throttle_config {
    struct throttle_rate bytes[THROTTLE_SCOPES], ops[THROTTLE_SCOPES];
    int64_t op_bytes; /* so many bytes are one request; 0: any number is */
};

/* No limits at all, and bursts of a second. */
extern const struct throttle_config throttle_config_none;
/* Does it limit anything? */
bool throttle_config_limits(const struct throttle_config *config);

/* ---- groups: any thread; none suspends ---- */

/* Without limits; NULL if there is one of that name. The caller owns the
 * reference. */
struct throttle_group *throttle_group_new(const char *name);
/* A reference for the caller, or NULL. */
struct throttle_group *throttle_group_find(const char *name);
/* One of the two. */
struct throttle_group *throttle_group_find_or_new(const char *name);
void throttle_group_unref(struct throttle_group *group);
/* Gives the reference back, if it is the only one; else false. */
bool throttle_group_unref_last(struct throttle_group *group);
/* As long as the group is there. */
const char *throttle_group_name(const struct throttle_group *group);
void throttle_group_get(struct throttle_group *group,
                        struct throttle_config *config);
/* Other limits, also for what waits now; what was used before is forgotten. */
void throttle_group_set(struct throttle_group *group,
                        const struct throttle_config *config);

/* ---- members: on the loop where the member is at the time ---- */

/* Refers to the group. */
struct throttle_member *throttle_join(struct throttle_group *group);
/* No request may be waiting. A member may go to another loop at such times. */
void throttle_leave(struct throttle_member *member);
struct throttle_group *throttle_member_group(struct throttle_member *member);
/* Suspends until a request of so many bytes may go, and accounts it. Takes no
 * lock where nothing is limited; never allocates. */
void co_throttle(struct throttle_member *member, int64_t bytes,
                 enum throttle_direction direction);
/* From here to the end nothing waits: what does goes on at once, accounted like
 * the rest. For drained sections; nests. */
void throttle_bypass_begin(struct throttle_member *member);
void throttle_bypass_end(struct throttle_member *member);

#endif
