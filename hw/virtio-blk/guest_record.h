/*
 * What a guest wrote: for each block of a region the version that it has now,
 * and the content that follows from position and version.
 */
#ifndef VARVE_HW_GUEST_RECORD_H
#define VARVE_HW_GUEST_RECORD_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct guest_record;

/* A region of the disk in blocks of block_bytes, a multiple of 512. NULL and
 * *error if there are too many of them. */
struct guest_record *guest_record_new(int64_t offset, int64_t bytes,
                                      int64_t block_bytes, uint64_t seed,
                                      GError **error);
void guest_record_free(struct guest_record *r);
bool guest_record_covers(const struct guest_record *r, int64_t offset,
                         int64_t bytes, int64_t block_bytes);

/* A block with a request in flight is claimed, because its content is open
 * until that ends. False if it is claimed already. */
bool guest_record_claim(struct guest_record *r, int64_t block);
void guest_record_release(struct guest_record *r, int64_t block);

/* A version that no block has; its content goes to data. */
uint32_t guest_record_fill(struct guest_record *r, int64_t block, void *data);
/* The content of the block from now on. */
#define GUEST_RECORD_UNKNOWN 0u
#define GUEST_RECORD_ZERO    1u
void guest_record_set(struct guest_record *r, int64_t block, uint32_t version);

/* Checks what was read: -1 if it is right, the first wrong byte's place in the
 * block, or -2 if nobody knows what it should be. */
int64_t guest_record_check(const struct guest_record *r, int64_t block,
                           const void *data);

#endif
