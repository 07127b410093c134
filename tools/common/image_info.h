/*
 * What an image says of its snapshots, for people.
 */
#ifndef VARVE_TOOLS_COMMON_IMAGE_INFO_H
#define VARVE_TOOLS_COMMON_IMAGE_INFO_H

#include <stdio.h>
#include "qapi/types.h"

/* "Snapshot list:" and a line for each; nothing for NULL, or if there is none.
 */
void tool_print_snapshots(FILE *out, const struct snapshot_info_list *list);

#endif
