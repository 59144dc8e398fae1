//! The children of every node that the raw grammar makes: a walk that goes through here overlooks no field.
//!
//! Names (of columns, types, functions, operators, collations) are no children: whoever handles the node reads them.
//! A node that is not in the table is one that the raw grammar does not make, or a newer one: the walk reports it.

use super::tree::nodes;
use pg_raw_parse::Node;

macro_rules! children {
    ($node:expr, $out:expr; leaves { $($leaf:ident)* } $($kind:ident { $($how:ident $field:ident),* })*) => {
        match $node {
            Node::None $(| Node::$leaf(_))* => true,
            Node::NodeList(list) => {
                list.iter().for_each(&mut *$out);
                true
            }
            $(Node::$kind(node) => {
                $(children!(@ $how node $field $out);)*
                true
            })*
            _ => false,
        }
    };
    (@ one $node:ident $field:ident $out:expr) => { $out($node.$field()) };
    (@ opt $node:ident $field:ident $out:expr) => { $out(Node::from($node.$field())) };
    (@ list $node:ident $field:ident $out:expr) => { $node.$field().iter().for_each(&mut *$out) };
    (@ cast $node:ident $field:ident $out:expr) => { nodes($node.$field()).iter().for_each(&mut *$out) };
}

/// Hands every child to `out`; false when the table does not know the node.
pub fn children<'a>(node: Node<'a>, out: &mut impl FnMut(Node<'a>)) -> bool {
    children! { node, out;
        leaves {
            Alias RangeVar MergeSupportFunc SQLValueFunction JsonFormat JsonReturning SetToDefault
            CurrentOfExpr Integer Float Boolean String BitString ColumnRef ParamRef A_Const RoleSpec
            A_Star ReturningOption TriggerTransition ATAlterConstraint ReplicaIdentityStmt
            AccessPriv VariableShowStmt DropTableSpaceStmt AlterEventTrigStmt CreateOpFamilyStmt
            ClosePortalStmt FetchStmt NotifyStmt ListenStmt UnlistenStmt CreateEnumStmt
            AlterEnumStmt LoadStmt AlterDatabaseRefreshCollStmt CheckPointStmt DiscardStmt
            DeallocateStmt DropSubscriptionStmt
        }
        IntoClause { opt rel, list col_names, list options }
        GroupingFunc { list args, list refs, list cols }
        NamedArgExpr { one arg }
        BoolExpr { list args }
        SubLink { one testexpr, one subselect }
        CaseExpr { one arg, list args, one defresult }
        CaseWhen { one expr, one result }
        RowExpr { list args }
        CoalesceExpr { list args }
        MinMaxExpr { list args }
        XmlExpr { list named_args, list args }
        JsonValueExpr { one raw_expr, one formatted_expr }
        JsonIsPredicate { one expr }
        JsonBehavior { one expr }
        NullTest { one arg }
        BooleanTest { one arg }
        JoinExpr { one larg, one rarg, one quals }
        TypeName { list typmods, list array_bounds }
        A_Expr { one lexpr, one rexpr }
        TypeCast { one arg, opt type_name }
        CollateClause { one arg }
        FuncCall { list args, cast agg_order, one agg_filter, opt over }
        A_Indices { one lidx, one uidx }
        A_Indirection { one arg, list indirection }
        A_ArrayExpr { list elements }
        ResTarget { list indirection, one val }
        MultiAssignRef { one source }
        SortBy { one node }
        WindowDef { list partition_clause, cast order_clause, one start_offset, one end_offset }
        RangeSubselect { one subquery }
        RangeFunction { list functions, cast coldeflist }
        RangeTableFunc { one docexpr, one rowexpr, list namespaces, cast columns }
        RangeTableFuncCol { opt type_name, one colexpr, one coldefexpr }
        RangeTableSample { one relation, list args, one repeatable }
        ColumnDef {
            opt type_name, one raw_default, opt identity_sequence, opt coll_clause, list
            constraints, list fdwoptions
        }
        TableLikeClause { opt relation }
        IndexElem { one expr, list opclassopts }
        DefElem { one arg }
        LockingClause { list locked_rels }
        XmlSerialize { one expr, opt type_name }
        PartitionElem { one expr, list collation, list opclass }
        PartitionSpec { cast part_params }
        PartitionBoundSpec { list listdatums, list lowerdatums, list upperdatums }
        PartitionRangeDatum { one value }
        PartitionCmd { opt name, opt bound }
        GroupingSet { list content }
        WithClause { cast ctes }
        InferClause { list index_elems, one where_clause }
        OnConflictClause { opt infer, cast target_list, one where_clause }
        CTESearchClause { list search_col_list }
        CTECycleClause { list cycle_col_list, one cycle_mark_value, one cycle_mark_default }
        CommonTableExpr {
            list aliascolnames, one ctequery, opt search_clause, opt cycle_clause, list
            ctecolnames
        }
        MergeWhenClause { one condition, list target_list, list values }
        ReturningClause { cast options, list exprs }
        JsonOutput { opt type_name, opt returning }
        JsonArgument { opt val }
        JsonFuncExpr { opt context_item, one pathspec, list passing, opt output, opt on_empty, opt on_error }
        JsonTablePathSpec { one string }
        JsonTable { opt context_item, opt pathspec, list passing, cast columns, opt on_error }
        JsonTableColumn { opt type_name, opt pathspec, list columns, opt on_empty, opt on_error }
        JsonKeyValue { one key, opt value }
        JsonParseExpr { opt expr, opt output }
        JsonScalarExpr { one expr, opt output }
        JsonSerializeExpr { opt expr, opt output }
        JsonObjectConstructor { cast exprs, opt output }
        JsonArrayConstructor { cast exprs, opt output }
        JsonArrayQueryConstructor { one query, opt output }
        JsonAggConstructor { opt output, one agg_filter, list agg_order, opt over }
        JsonObjectAgg { opt constructor, opt arg }
        JsonArrayAgg { opt constructor, opt arg }
        InsertStmt {
            opt relation, list cols, one select_stmt, opt on_conflict_clause, opt
            returning_clause, opt with_clause
        }
        DeleteStmt {
            opt relation, list using_clause, one where_clause, opt returning_clause, opt
            with_clause
        }
        UpdateStmt {
            opt relation, cast target_list, one where_clause, list from_clause, opt
            returning_clause, opt with_clause
        }
        MergeStmt {
            opt relation, one source_relation, one join_condition, cast merge_when_clauses, opt
            returning_clause, opt with_clause
        }
        SelectStmt {
            list distinct_clause, opt into_clause, cast target_list, list from_clause, one
            where_clause, list group_clause, one having_clause, list window_clause, list
            values_lists, cast sort_clause, one limit_offset, one limit_count, cast
            locking_clause, opt with_clause, opt larg, opt rarg
        }
        ReturnStmt { one returnval }
        PLAssignStmt { list indirection, opt val }
        CreateSchemaStmt { opt authrole, list schema_elts }
        AlterTableStmt { opt relation, list cmds }
        AlterTableCmd { opt newowner, one def }
        AlterCollationStmt { list collname }
        AlterDomainStmt { list type_name, one def }
        GrantStmt { cast objects, cast privileges, cast grantees, opt grantor }
        ObjectWithArgs { list objname, list objargs, cast objfuncargs }
        GrantRoleStmt { list granted_roles, list grantee_roles, list opt, opt grantor }
        AlterDefaultPrivilegesStmt { cast options, opt action }
        CopyStmt { opt relation, one query, list attlist, cast options, one where_clause }
        VariableSetStmt { list args }
        CreateStmt {
            opt relation, list table_elts, list inh_relations, opt partbound, opt partspec, opt
            of_typename, cast constraints, list nnconstraints, list options
        }
        Constraint {
            one raw_expr, list keys, list including, list exclusions, list options, one
            where_clause, opt pktable, list fk_attrs, list pk_attrs, list fk_del_set_cols
        }
        CreateTableSpaceStmt { opt owner, list options }
        AlterTableSpaceOptionsStmt { list options }
        AlterTableMoveAllStmt { list roles }
        CreateExtensionStmt { cast options }
        AlterExtensionStmt { cast options }
        AlterExtensionContentsStmt { one object }
        CreateFdwStmt { list func_options, list options }
        AlterFdwStmt { list func_options, list options }
        CreateForeignServerStmt { list options }
        AlterForeignServerStmt { list options }
        CreateUserMappingStmt { opt user, list options }
        AlterUserMappingStmt { opt user, list options }
        DropUserMappingStmt { opt user }
        ImportForeignSchemaStmt { cast table_list, list options }
        CreatePolicyStmt { opt table, list roles, one qual, one with_check }
        AlterPolicyStmt { opt table, list roles, one qual, one with_check }
        CreateAmStmt { list handler_name }
        CreateTrigStmt {
            opt relation, list funcname, list columns, one when_clause, list transition_rels,
            opt constrrel
        }
        CreateEventTrigStmt { cast whenclause, list funcname }
        CreatePLangStmt { list plhandler, list plinline, list plvalidator }
        CreateRoleStmt { cast options }
        AlterRoleStmt { opt role, cast options }
        AlterRoleSetStmt { opt role, opt setstmt }
        DropRoleStmt { list roles }
        CreateSeqStmt { opt sequence, list options }
        AlterSeqStmt { opt sequence, list options }
        DefineStmt { list args, cast definition }
        CreateDomainStmt { opt type_name, opt coll_clause, cast constraints }
        CreateOpClassStmt { list opfamilyname, opt datatype, cast items }
        CreateOpClassItem { opt name, list order_family, list class_args, opt storedtype }
        AlterOpFamilyStmt { cast items }
        DropStmt { list objects }
        TruncateStmt { list relations }
        CommentStmt { one object }
        SecLabelStmt { one object }
        DeclareCursorStmt { one query }
        IndexStmt {
            opt relation, cast index_params, list index_including_params, cast options, one
            where_clause, list exclude_op_names
        }
        CreateStatsStmt { list exprs, cast relations }
        StatsElem { one expr }
        AlterStatsStmt { one stxstattarget }
        CreateFunctionStmt { list funcname, cast parameters, opt return_type, cast options, one sql_body }
        FunctionParameter { opt arg_type, one defexpr }
        AlterFunctionStmt { opt func, cast actions }
        DoStmt { cast args }
        CallStmt { opt funccall }
        RenameStmt { opt relation, one object }
        AlterObjectDependsStmt { opt relation, one object }
        AlterObjectSchemaStmt { opt relation, one object }
        AlterOwnerStmt { opt relation, one object, opt newowner }
        AlterOperatorStmt { opt opername, cast options }
        AlterTypeStmt { list type_name, cast options }
        RuleStmt { opt relation, one where_clause, list actions }
        TransactionStmt { list options }
        CompositeTypeStmt { opt typevar, cast coldeflist }
        CreateRangeStmt { cast params }
        ViewStmt { opt view, list aliases, one query, list options }
        CreatedbStmt { cast options }
        AlterDatabaseStmt { cast options }
        AlterDatabaseSetStmt { opt setstmt }
        DropdbStmt { list options }
        AlterSystemStmt { opt setstmt }
        ClusterStmt { opt relation, cast params }
        VacuumStmt { cast options, cast rels }
        VacuumRelation { opt relation, list va_cols }
        ExplainStmt { one query, cast options }
        CreateTableAsStmt { one query, opt into }
        RefreshMatViewStmt { opt relation }
        LockStmt { list relations }
        ConstraintsSetStmt { list constraints }
        ReindexStmt { opt relation, cast params }
        CreateConversionStmt { list conversion_name, list func_name }
        CreateCastStmt { opt sourcetype, opt targettype, opt func }
        CreateTransformStmt { opt type_name, opt fromsql, opt tosql }
        PrepareStmt { cast argtypes, one query }
        ExecuteStmt { list params }
        DropOwnedStmt { list roles }
        ReassignOwnedStmt { list roles, opt newrole }
        AlterTSDictionaryStmt { cast options }
        AlterTSConfigurationStmt { list tokentype, list dicts }
        PublicationTable { opt relation, one where_clause, list columns }
        PublicationObjSpec { opt pubtable }
        CreatePublicationStmt { cast options, list pubobjects }
        AlterPublicationStmt { cast options, list pubobjects }
        CreateSubscriptionStmt { list publication, cast options }
        AlterSubscriptionStmt { list publication, cast options }
    }
}
