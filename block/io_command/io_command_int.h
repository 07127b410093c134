/*
 * What the families of commands share.
 */
#ifndef VARVE_BLOCK_IO_COMMAND_INT_H
#define VARVE_BLOCK_IO_COMMAND_INT_H

#include "block/io_command.h"
#include "util/iov.h"

extern const struct io_command io_command_aio_flush, io_command_aio_read,
    io_command_aio_write, io_command_alloc, io_command_break,
    io_command_discard, io_command_flush, io_command_help, io_command_info,
    io_command_length, io_command_map, io_command_read, io_command_readv,
    io_command_remove_break, io_command_reopen, io_command_resume,
    io_command_sleep, io_command_truncate, io_command_wait_break,
    io_command_write, io_command_writev;

extern const struct io_command *const io_commands[];
/* What commands of kind graph_as_is look at. */
struct node *io_node(const struct io_session *s);
/* By name or alias, the session's own rows first; NULL if there is none. */
const struct io_command *io_command_find(const struct io_session *s,
                                         const char *name);

/* -P, -s and -l, from 0 to 255; prints what is wrong and returns false. */
bool io_parse_pattern(struct io_session *s, const char *text, int *pattern);
/* For rows whose only argument to check is -P's. */
bool io_check_pattern(struct io_session *s, unsigned char letter,
                      const char *text);
/* A length that one request may have; `unless` is printed as the exception. */
bool io_parse_length(struct io_session *s, const char *text, const char *unless,
                     int64_t *bytes);
/* False, and says so, unless value is a multiple of a sector. */
bool io_check_sector(struct io_session *s, const char *what, int64_t value);

/* ---- memory of a request ---- */

struct io_memory {
    void *base; /* what was allocated */
    uint8_t *data;
    size_t bytes;
};
/* Filled with byte; prints what is wrong and returns false. */
bool io_memory_alloc(struct io_session *s, size_t bytes, int byte,
                     struct io_memory *m);
void io_memory_free(struct io_memory *m);
/* Prints it as 16 bytes a line; offset is that of its first byte. */
void io_memory_dump(struct io_session *s, const struct io_memory *m,
                    int64_t offset);
/* True if bytes [start, start + bytes) are all `pattern`; else says which were
 * wrong. */
bool io_memory_verify(struct io_session *s, const struct io_memory *m,
                      int pattern, int64_t start, int64_t bytes,
                      int64_t offset);
/* Words from first on as lengths of one vector. Prints what is wrong and
 * returns false; else the caller frees *vec. */
bool io_vector(struct io_session *s, const struct io_args *args, int first,
               int byte, struct io_memory *m, struct iovec **vec);

/* ---- requests in the background ---- */

/* First member of one. */
struct io_done {
    struct io_done *next;
    void (*tell)(struct io_done *done); /* says how it went, and frees it */
};
/* The request has ended: it is told when somebody waits, the latest first. */
void io_done_add(struct io_session *s, struct io_done *done);
void io_done_tell(struct io_session *s);

/* ---- saying what was done ---- */

int64_t io_now_ns(void);
/* op: "read", "wrote"; since: of io_now_ns(). As the options -q and -C say. */
void io_report(struct io_session *s, const struct io_args *args, const char *op,
               int64_t since, int64_t offset, int64_t bytes);
/* Prints "<what> failed: <text>"; returns false. */
bool io_failed(struct io_session *s, const char *what, int ret);
/* A request was waited for. True if it succeeded; then what was done meanwhile
 * is told, else as io_failed(). */
bool io_waited(struct io_session *s, const char *what, int ret);

#endif
