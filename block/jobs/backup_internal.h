/*
 * What the backup job and the commands that start it share.
 */
#ifndef VARVE_BLOCK_JOBS_BACKUP_INTERNAL_H
#define VARVE_BLOCK_JOBS_BACKUP_INTERNAL_H

#include "block/backup.h"
#include "block/driver.h"

/* Everything that can be refused without knowing the target; completes
 * params->job_id. */
bool backup_check_start(struct backup_params *params, GError **error);
/* Whether the target's driver can do what params->compress asks for; the target
 * itself need not be there yet. */
bool backup_check_compress(const struct backup_params *params,
                           const struct block_driver *driver, GError **error);

#endif
