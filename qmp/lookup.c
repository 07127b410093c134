/*
 * A bitmap that a user adds to "drive0" while a backup runs belongs on the
 * disk, not on the filter that the backup has put above it.
 */
#include "lookup.h"

#include "block/graph.h"

struct node *lookup_below_job_filters(struct node *node)
{
    while (node && node_is_filter(node) && node->file && node->name[0] == '#' &&
           !node->monitor_owned) {
        node = node->file->child;
    }
    return node;
}
