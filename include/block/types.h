/*
 * The constants that the whole block layer shares.
 */
#ifndef VARVE_BLOCK_TYPES_H
#define VARVE_BLOCK_TYPES_H

#include <stdbool.h>
#include <stdint.h>

/* Permissions of an edge: what the parent needs, and what it lets others do to
 * the same child. */
enum perm {
    PERM_CONSISTENT_READ = 1 << 0, /* reads see one point in time */
    PERM_WRITE = 1 << 1,
    PERM_WRITE_UNCHANGED = 1 << 2, /* writes that keep the visible data */
    PERM_RESIZE = 1 << 3,
    PERM_ALL = (1 << 4) - 1,
};

/* What a child is to its parent; a child may have several roles. */
enum child_role {
    ROLE_DATA = 1 << 0,     /* guest data is stored in it */
    ROLE_METADATA = 1 << 1, /* the parent's own structures are */
    ROLE_FILTERED = 1 << 2, /* the parent shows its data unchanged */
    ROLE_COW = 1 << 3,      /* backing: what the parent has not got */
    ROLE_PRIMARY = 1 << 4,  /* the child that filenames and sizes come from */
};

/* Flags of a request. */
enum req_flag {
    REQ_FUA = 1 << 0,         /* stable before it completes */
    REQ_MAY_UNMAP = 1 << 1,   /* write-zeroes may deallocate */
    REQ_NO_FALLBACK = 1 << 2, /* write-zeroes: fail rather than write buffers */
    REQ_COMPRESSED = 1 << 3,  /* store compressed if the format can */
    REQ_WRITE_UNCHANGED = 1 << 4, /* the visible data stays the same */
    REQ_SERIALISING = 1 << 5, /* wait for, and hold off, all that overlaps */
    REQ_NO_WAIT = 1 << 6,     /* with SERIALISING: -EBUSY rather than waiting */
};

/* Answer of a block-status question about a range. */
enum block_status_flag {
    BLOCK_DATA = 1 << 0,         /* reads come from storage of this layer */
    BLOCK_ZERO = 1 << 1,         /* reads as zeroes */
    BLOCK_ALLOCATED = 1 << 2,    /* this layer decides the content */
    BLOCK_OFFSET_VALID = 1 << 3, /* .map and .file say where it is stored */
    BLOCK_COMPRESSED = 1 << 4,
    BLOCK_RECURSE = 1 << 5, /* driver to engine: ask .file at .map as well;
                               with DATA only for zeroes, alone for all */
    BLOCK_EOF = 1 << 6,     /* the range ends where the node ends */
};

struct node;

struct block_status {
    unsigned flags;    /* enum block_status_flag */
    int64_t bytes;     /* length of the run from the asked offset; > 0 */
    int64_t map;       /* with OFFSET_VALID: byte offset in file */
    struct node *file; /* with OFFSET_VALID: not a reference */
};

/* The largest node and request. Offsets stay below INT64_MAX even after
 * rounding up to any alignment. */
#define BLOCK_MAX_LENGTH    (INT64_MAX - (INT64_C(1) << 30))
#define BLOCK_MAX_TRANSFER  (INT32_MAX & ~(int64_t)511)
#define BLOCK_NODE_NAME_MAX 31
#define BLOCK_SECTOR_SIZE   512

#endif
