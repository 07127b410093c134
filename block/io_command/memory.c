/*
 * The memory that a command reads into or writes from.
 */
#include "block/io_command/io_command_int.h"

#include <ctype.h>
#include <inttypes.h>
#include <string.h>

#include "block/backend.h"
#include "block/request.h"
#include "block/types.h"
#include "util/range.h"

bool io_memory_alloc(struct io_session *s, size_t bytes, int byte,
                     struct io_memory *m)
{
    /* Never of no size, which has no address. */
    m->base =
        io_buffer_try_alloc(s->backend->node, MAX(bytes, 1) + s->misalign);
    if (!m->base) {
        io_complain(s, "not enough memory for %zu bytes", bytes);
        return false;
    }
    m->data = (uint8_t *)m->base + s->misalign;
    m->bytes = bytes;
    memset(m->data, byte, bytes);
    return true;
}

void io_memory_free(struct io_memory *m)
{
    io_buffer_free(m->base);
}

void io_memory_dump(struct io_session *s, const struct io_memory *m,
                    int64_t offset)
{
    for (size_t at = 0; at < m->bytes; at += 16) {
        size_t n = MIN(16, m->bytes - at);

        fprintf(s->out, "%08" PRIx64 ":  ", offset + (int64_t)at);
        for (size_t i = 0; i < n; i++) {
            fprintf(s->out, "%02x ", m->data[at + i]);
        }
        fputc(' ', s->out);
        for (size_t i = 0; i < n; i++) {
            uint8_t c = m->data[at + i];
            fputc(c < 128 && isalnum(c) ? c : '.', s->out);
        }
        fputc('\n', s->out);
    }
}

bool io_memory_verify(struct io_session *s, const struct io_memory *m,
                      int pattern, int64_t start, int64_t bytes, int64_t offset)
{
    const uint8_t *p = m->data + start;

    /* Each byte equals the one before it, and the first is right. */
    if (bytes == 0 || (p[0] == pattern && !memcmp(p, p + 1, bytes - 1))) {
        return true;
    }
    fprintf(s->out,
            "Pattern verification failed at offset %" PRId64 ", %" PRId64
            " bytes\n",
            offset + start, bytes);
    return false;
}

bool io_vector(struct io_session *s, const struct io_args *args, int first,
               int byte, struct io_memory *m, struct iovec **vec)
{
    int n = args->n - first;
    g_autofree struct iovec *v = g_new(struct iovec, n);
    int64_t total = 0;

    for (int i = 0; i < n; i++) {
        int64_t bytes;
        if (!io_parse_number(s, args->word[first + i], &bytes)) {
            return false;
        }
        if (bytes > BLOCK_MAX_TRANSFER) {
            fprintf(s->out, "Argument '%s' exceeds maximum size %" PRId64 "\n",
                    args->word[first + i], (int64_t)BLOCK_MAX_TRANSFER);
            return false;
        }
        if (total > BLOCK_MAX_TRANSFER - bytes) {
            fprintf(s->out,
                    "The total number of bytes exceed the maximum size %" PRId64
                    "\n",
                    (int64_t)BLOCK_MAX_TRANSFER);
            return false;
        }
        v[i].iov_len = (size_t)bytes;
        total += bytes;
    }
    if (!io_memory_alloc(s, (size_t)total, byte, m)) {
        return false;
    }
    uint8_t *at = m->data;
    for (int i = 0; i < n; i++) {
        v[i].iov_base = at;
        at += v[i].iov_len;
    }
    *vec = g_steal_pointer(&v);
    return true;
}
