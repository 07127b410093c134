/*
 * What a guest wrote.
 *
 * One word a block, in reserved address space, so that untouched parts of a
 * large disk cost nothing: the version in the lower 31 bits, and the claim.
 * Each 8 bytes of a block's content depend on the seed, the block, its version
 * and their place, so that lost, misplaced, torn and stale writes all show.
 * Pure, any thread.
 */
#include "hw/virtio-blk/guest_record.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "util/error.h"

#define CLAIMED    0x80000000u
#define MAX_BLOCKS (INT64_C(1) << 30)

struct guest_record {
    int64_t offset, bytes, block_bytes, blocks;
    uint64_t seed;
    uint32_t next_version;
    uint32_t *versions;
};

struct guest_record *guest_record_new(int64_t offset, int64_t bytes,
                                      int64_t block_bytes, uint64_t seed,
                                      GError **error)
{
    int64_t blocks = bytes / block_bytes;

    if (blocks > MAX_BLOCKS) {
        error_set(error,
                  "The region has %" G_GINT64_FORMAT
                  " blocks, too many to verify",
                  blocks);
        return NULL;
    }
    uint32_t *versions =
        mmap(NULL, blocks * sizeof(*versions), PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (versions == MAP_FAILED) {
        error_set_errno(error, errno, "Could not map the guest's record");
        return NULL;
    }
    struct guest_record *r = g_new0(struct guest_record, 1);

    *r = (struct guest_record){
        .offset = offset,
        .bytes = bytes,
        .block_bytes = block_bytes,
        .blocks = blocks,
        .seed = seed,
        .next_version = GUEST_RECORD_ZERO + 1,
        .versions = versions,
    };
    return r;
}

void guest_record_free(struct guest_record *r)
{
    if (r) {
        munmap(r->versions, r->blocks * sizeof(*r->versions));
        g_free(r);
    }
}

bool guest_record_covers(const struct guest_record *r, int64_t offset,
                         int64_t bytes, int64_t block_bytes)
{
    return r->offset == offset && r->bytes == bytes &&
           r->block_bytes == block_bytes;
}

bool guest_record_claim(struct guest_record *r, int64_t block)
{
    if (r->versions[block] & CLAIMED) {
        return false;
    }
    r->versions[block] |= CLAIMED;
    return true;
}

void guest_record_release(struct guest_record *r, int64_t block)
{
    r->versions[block] &= ~CLAIMED;
}

void guest_record_set(struct guest_record *r, int64_t block, uint32_t version)
{
    r->versions[block] = (r->versions[block] & CLAIMED) | version;
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* The first word of a block; the next ones count up from it by STEP. */
static uint64_t first_word(const struct guest_record *r, int64_t block,
                           uint32_t version)
{
    return mix(r->seed ^
               mix((uint64_t)block * UINT64_C(0x9e3779b97f4a7c15) + version));
}

#define STEP UINT64_C(0xd1342543de82ef95)

uint32_t guest_record_fill(struct guest_record *r, int64_t block, void *data)
{
    uint32_t version = r->next_version++;
    uint64_t word = first_word(r, block, version);
    uint64_t *p = data;

    if (r->next_version & CLAIMED) {
        r->next_version = GUEST_RECORD_ZERO + 1;
    }
    for (int64_t i = 0; i < r->block_bytes / 8; i++, word += STEP) {
        p[i] = word;
    }
    return version;
}

static int64_t first_wrong_byte(const uint8_t *data, uint64_t word, int64_t at)
{
    uint8_t expected[8];

    memcpy(expected, &word, sizeof(word));
    for (unsigned i = 0; i < 8; i++) {
        if (data[at + i] != expected[i]) {
            return at + i;
        }
    }
    return -1;
}

int64_t guest_record_check(const struct guest_record *r, int64_t block,
                           const void *data)
{
    uint32_t version = r->versions[block] & ~CLAIMED;
    const uint64_t *p = data;

    if (version == GUEST_RECORD_UNKNOWN) {
        return -2;
    }
    bool zero = version == GUEST_RECORD_ZERO;
    uint64_t word = zero ? 0 : first_word(r, block, version);
    uint64_t step = zero ? 0 : STEP;

    for (int64_t i = 0; i < r->block_bytes / 8; i++, word += step) {
        if (G_UNLIKELY(p[i] != word)) {
            return first_wrong_byte(data, word, i * 8);
        }
    }
    return -1;
}
