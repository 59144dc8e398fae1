//! What PostgreSQL's own functions do besides making a value: every volatile one of 14 to 18, and the others that run text.

/// What a call of a built-in does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Builtin {
    /// A value from its arguments and the catalog: no pair.
    Value,
    /// It writes, waits, or touches sessions, locks or settings: a call.
    Call,
    /// It runs text, or reads what it is named: a call, and unknown.
    RunsText,
    /// `ts_rewrite`: with two arguments it runs the second.
    RunsSecondOfTwo,
    /// A call that moves rows of every table into a stream.
    Replicates,
    /// `set_config(name, value, is_local)`.
    SetConfig,
    /// Reads the file or directory of its first argument.
    ReadsFile,
    /// Reads some file or directory that the server chooses.
    ReadsSomeFile,
    /// Moves the sequence of its first argument.
    MovesSequence,
    /// `pg_notify(channel, payload)`.
    Notifies,
    /// Makes the large object of its first argument.
    LargeObjectCreate,
    /// Makes a large object of the server's choice.
    LargeObjectCreateAny,
    /// `lo_import(path [, oid])`.
    LargeObjectImport,
    /// `lo_export(oid, path)`.
    LargeObjectExport,
    LargeObjectDrop,
    LargeObjectRead,
    LargeObjectUpdate,
    /// `lo_open(oid, mode)`.
    LargeObjectOpen,
    /// By a descriptor, which does not tell the object.
    LargeObjectReadAny,
    LargeObjectUpdateAny,
}

/// The place of a built-in in the table. A volatile one that is not in it is `None`: nobody has looked at it.
pub(super) fn classify(name: &str, volatility: char) -> Option<Builtin> {
    use Builtin as B;
    let known = match name {
        "set_config" => B::SetConfig,
        "nextval" | "setval" => B::MovesSequence,
        "pg_notify" => B::Notifies,
        "ts_rewrite" => B::RunsSecondOfTwo,
        "pg_read_file" | "pg_read_binary_file" | "pg_read_file_old" | "pg_ls_dir" | "pg_stat_file" => B::ReadsFile,
        "lo_create" | "lo_from_bytea" => B::LargeObjectCreate,
        "lo_creat" => B::LargeObjectCreateAny,
        "lo_import" => B::LargeObjectImport,
        "lo_export" => B::LargeObjectExport,
        "lo_unlink" => B::LargeObjectDrop,
        "lo_get" => B::LargeObjectRead,
        "lo_put" => B::LargeObjectUpdate,
        "lo_open" => B::LargeObjectOpen,
        "loread" => B::LargeObjectReadAny,
        "lowrite" | "lo_truncate" | "lo_truncate64" => B::LargeObjectUpdateAny,
        _ if RUNS_TEXT.binary_search(&name).is_ok() => B::RunsText,
        _ if REPLICATES.binary_search(&name).is_ok() => B::Replicates,
        _ if READS_SOME_FILE.binary_search(&name).is_ok() => B::ReadsSomeFile,
        _ if CALLS.binary_search(&name).is_ok() => B::Call,
        _ if volatility != 'v' || VALUES.binary_search(&name).is_ok() => B::Value,
        _ => return None,
    };
    Some(known)
}

/// Run a query, read what they are named, convert a text to a type they are named (a domain's CHECK is code), or
/// change the system catalogs from within.
const RUNS_TEXT: &[&str] = &[
    "anyarray_in", "array_in", "array_recv", "binary_upgrade_add_sub_rel_state",
    "binary_upgrade_create_empty_extension", "binary_upgrade_logical_slot_has_caught_up",
    "binary_upgrade_replorigin_advance", "binary_upgrade_set_missing_value",
    "binary_upgrade_set_next_array_pg_type_oid", "binary_upgrade_set_next_heap_pg_class_oid",
    "binary_upgrade_set_next_heap_relfilenode", "binary_upgrade_set_next_index_pg_class_oid",
    "binary_upgrade_set_next_index_relfilenode", "binary_upgrade_set_next_multirange_array_pg_type_oid",
    "binary_upgrade_set_next_multirange_pg_type_oid", "binary_upgrade_set_next_pg_authid_oid",
    "binary_upgrade_set_next_pg_enum_oid", "binary_upgrade_set_next_pg_tablespace_oid",
    "binary_upgrade_set_next_pg_type_oid", "binary_upgrade_set_next_toast_pg_class_oid",
    "binary_upgrade_set_next_toast_relfilenode", "binary_upgrade_set_record_init_privs", "currtid2",
    "cursor_to_xml", "cursor_to_xmlschema", "database_to_xml", "database_to_xml_and_xmlschema",
    "database_to_xmlschema", "domain_in", "domain_recv", "multirange_in", "multirange_recv",
    "pg_clear_attribute_stats", "pg_clear_relation_stats", "pg_extension_config_dump",
    "pg_import_system_collations", "pg_input_error_info", "pg_input_is_valid", "pg_nextoid",
    "pg_restore_attribute_stats", "pg_restore_relation_stats", "pg_stop_making_pinned_objects",
    "query_to_xml", "query_to_xml_and_xmlschema", "query_to_xmlschema", "range_in", "range_recv",
    "record_in", "record_recv", "schema_to_xml", "schema_to_xml_and_xmlschema", "schema_to_xmlschema",
    "table_to_xml", "table_to_xml_and_xmlschema", "table_to_xmlschema", "ts_stat",
];

/// Replication slots and origins.
const REPLICATES: &[&str] = &[
    "pg_copy_logical_replication_slot", "pg_copy_physical_replication_slot",
    "pg_create_logical_replication_slot", "pg_create_physical_replication_slot", "pg_drop_replication_slot",
    "pg_logical_slot_get_binary_changes", "pg_logical_slot_get_changes",
    "pg_logical_slot_peek_binary_changes", "pg_logical_slot_peek_changes", "pg_replication_origin_advance",
    "pg_replication_origin_create", "pg_replication_origin_drop", "pg_replication_origin_session_reset",
    "pg_replication_origin_session_setup", "pg_replication_origin_xact_reset",
    "pg_replication_origin_xact_setup", "pg_replication_slot_advance", "pg_sync_replication_slots",
];

const READS_SOME_FILE: &[&str] = &[
    "pg_available_wal_summaries", "pg_current_logfile", "pg_hba_file_rules", "pg_ident_file_mappings",
    "pg_ls_archive_statusdir", "pg_ls_logdir", "pg_ls_logicalmapdir", "pg_ls_logicalsnapdir",
    "pg_ls_replslotdir", "pg_ls_summariesdir", "pg_ls_tmpdir", "pg_ls_waldir", "pg_show_all_file_settings",
    "pg_wal_summary_contents",
];

const CALLS: &[&str] = &[
    "brin_desummarize_range", "brin_summarize_new_values", "brin_summarize_range", "fmgr_c_validator",
    "fmgr_internal_validator", "fmgr_sql_validator", "gin_clean_pending_list", "lo_close", "lo_lseek",
    "lo_lseek64", "lo_tell", "lo_tell64", "pg_advisory_lock", "pg_advisory_lock_shared",
    "pg_advisory_unlock", "pg_advisory_unlock_all", "pg_advisory_unlock_shared", "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared", "pg_backup_start", "pg_backup_stop", "pg_cancel_backend",
    "pg_create_restore_point", "pg_export_snapshot", "pg_log_backend_memory_contexts",
    "pg_log_standby_snapshot", "pg_logical_emit_message", "pg_promote", "pg_reload_conf",
    "pg_rotate_logfile", "pg_rotate_logfile_old", "pg_sleep", "pg_sleep_for", "pg_sleep_until",
    "pg_start_backup", "pg_stat_clear_snapshot", "pg_stat_force_next_flush", "pg_stat_reset",
    "pg_stat_reset_backend_stats", "pg_stat_reset_replication_slot", "pg_stat_reset_shared",
    "pg_stat_reset_single_function_counters", "pg_stat_reset_single_table_counters", "pg_stat_reset_slru",
    "pg_stat_reset_subscription_stats", "pg_stop_backup", "pg_switch_wal", "pg_terminate_backend",
    "pg_try_advisory_lock", "pg_try_advisory_lock_shared", "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared", "pg_wal_replay_pause", "pg_wal_replay_resume", "plpgsql_validator",
    "setseed",
];

/// Volatile, and yet only a value: of the clock, of chance, of the server's own counters, or nothing that SQL can call
/// (handlers and triggers).
const VALUES: &[&str] = &[
    "RI_FKey_cascade_del", "RI_FKey_cascade_upd", "RI_FKey_check_ins", "RI_FKey_check_upd",
    "RI_FKey_noaction_del", "RI_FKey_noaction_upd", "RI_FKey_restrict_del", "RI_FKey_restrict_upd",
    "RI_FKey_setdefault_del", "RI_FKey_setdefault_upd", "RI_FKey_setnull_del", "RI_FKey_setnull_upd",
    "amvalidate", "array_sample", "array_shuffle", "bernoulli", "brinhandler", "bthandler",
    "clock_timestamp", "current_query", "currval", "dsnowball_init", "dsnowball_lexize", "gen_random_uuid",
    "ginhandler", "gisthandler", "hashhandler", "heap_tableam_handler", "lastval", "pg_backup_start_time",
    "pg_blocking_pids", "pg_collation_actual_version", "pg_control_checkpoint", "pg_control_init",
    "pg_control_recovery", "pg_control_system", "pg_current_wal_flush_lsn", "pg_current_wal_insert_lsn",
    "pg_current_wal_lsn", "pg_database_collation_actual_version", "pg_database_size", "pg_get_aios",
    "pg_get_backend_memory_contexts", "pg_get_loaded_modules", "pg_get_multixact_members",
    "pg_get_sequence_data", "pg_get_shmem_allocations", "pg_get_shmem_allocations_numa",
    "pg_get_wait_events", "pg_get_wal_replay_pause_state", "pg_get_wal_resource_managers",
    "pg_get_wal_summarizer_state", "pg_indexes_size", "pg_is_in_backup", "pg_is_in_recovery",
    "pg_is_wal_replay_paused", "pg_isolation_test_session_is_blocked", "pg_jit_available",
    "pg_last_committed_xact", "pg_last_wal_receive_lsn", "pg_last_wal_replay_lsn",
    "pg_last_xact_replay_timestamp", "pg_lock_status", "pg_notification_queue_usage",
    "pg_partition_ancestors", "pg_partition_tree", "pg_prepared_xact", "pg_relation_size",
    "pg_replication_origin_progress", "pg_replication_origin_session_is_setup",
    "pg_replication_origin_session_progress", "pg_safe_snapshot_blocking_pids", "pg_sequence_last_value",
    "pg_show_replication_origin_status", "pg_stat_get_backend_io", "pg_stat_get_backend_wal",
    "pg_stat_get_io", "pg_stat_get_recovery_prefetch", "pg_stat_get_xact_blocks_fetched",
    "pg_stat_get_xact_blocks_hit", "pg_stat_get_xact_function_calls", "pg_stat_get_xact_function_self_time",
    "pg_stat_get_xact_function_total_time", "pg_stat_get_xact_numscans", "pg_stat_get_xact_tuples_deleted",
    "pg_stat_get_xact_tuples_fetched", "pg_stat_get_xact_tuples_hot_updated",
    "pg_stat_get_xact_tuples_inserted", "pg_stat_get_xact_tuples_newpage_updated",
    "pg_stat_get_xact_tuples_returned", "pg_stat_get_xact_tuples_updated", "pg_stat_have_stats",
    "pg_table_size", "pg_tablespace_size", "pg_total_relation_size", "pg_xact_commit_timestamp",
    "pg_xact_commit_timestamp_origin", "pg_xact_status", "plpgsql_call_handler", "plpgsql_inline_handler",
    "random", "random_normal", "spghandler", "suppress_redundant_updates_trigger", "system", "timeofday",
    "tsvector_update_trigger", "tsvector_update_trigger_column", "txid_status", "unique_key_recheck",
    "uuidv4", "uuidv7",
];
