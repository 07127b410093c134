/*
 * What aio_read and aio_write started, and aio_flush.
 *
 * A request that has ended says so when somebody waits, for whatever it is: one
 * that was done at once is no different from the rest. Of several, the latest
 * comes first, as scripts know it. Those that are in flight and those that are
 * to be told count in session->in_flight, and so does who is to tell.
 *
 * On the graph's loop.
 */
#include "aio/coroutine.h"
#include "block/io_command/io_command_int.h"

void io_done_tell(struct io_session *s)
{
    struct io_done *done;

    while ((done = s->done)) {
        s->done = done->next;
        done->tell(done);
        co_count_dec(&s->in_flight);
    }
}

static void co_tell(void *opaque)
{
    struct io_session *s = opaque;

    io_done_tell(s);
    co_count_dec(&s->in_flight);
}

void io_done_add(struct io_session *s, struct io_done *done)
{
    if (!s->done) {
        co_count_inc(&s->in_flight);
        co_start(co_tell, s);
    }
    done->next = s->done;
    s->done = done;
}

void co_io_session_drain(struct io_session *s)
{
    co_count_wait_zero(&s->in_flight);
}

static bool co_aio_flush(struct io_session *s, const struct io_args *args)
{
    co_io_session_drain(s);
    return true;
}

const struct io_command io_command_aio_flush = {
    .name = "aio_flush",
    .max = 0,
    .usage = "",
    .what = "waits for all that aio_read and aio_write started",
    .co_run = co_aio_flush,
};
