/*
 * Who wants to hear what happens in the block layer.
 *
 * One list for the process, because a listener (a monitor) wants to hear of
 * every graph; it is filled before the loops run.
 */
#include "block/listener.h"

static LIST_HEAD(, block_listener) listeners = LIST_HEAD_INITIALIZER(listeners);

void block_listener_add(struct block_listener *l)
{
    LIST_INSERT_HEAD(&listeners, l, link);
}

void block_listener_remove(struct block_listener *l)
{
    LIST_REMOVE(l, link);
}

struct block_listener *block_listeners_first(void)
{
    return LIST_FIRST(&listeners);
}
