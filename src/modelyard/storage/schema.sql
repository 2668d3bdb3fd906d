-- made by revisions b409b9016096e865aecc14ab4a10cb056d5b82e6596503fb9f849f06aaed76d6
BEGIN TRANSACTION;
CREATE TABLE ab_arms (
	test_id TEXT NOT NULL, 
	variant TEXT NOT NULL, 
	round INTEGER NOT NULL, 
	tally TEXT NOT NULL, 
	PRIMARY KEY (test_id, variant, round), 
	FOREIGN KEY(test_id) REFERENCES ab_tests (test_id)
);
CREATE TABLE ab_assignments (
	test_id TEXT NOT NULL, 
	unit TEXT NOT NULL, 
	variant TEXT NOT NULL, 
	round INTEGER NOT NULL, 
	PRIMARY KEY (test_id, unit), 
	FOREIGN KEY(test_id) REFERENCES ab_tests (test_id)
);
CREATE TABLE ab_holdouts (
	name TEXT NOT NULL, 
	share FLOAT NOT NULL, 
	created_at BIGINT NOT NULL, 
	created_by TEXT NOT NULL, 
	ended_at BIGINT, 
	PRIMARY KEY (name)
);
CREATE TABLE ab_journals (
	journal TEXT NOT NULL, 
	folded BIGINT NOT NULL, 
	PRIMARY KEY (journal)
);
CREATE TABLE ab_layouts (
	test_id TEXT NOT NULL, 
	layout INTEGER NOT NULL, 
	told TEXT NOT NULL, 
	PRIMARY KEY (test_id, layout), 
	FOREIGN KEY(test_id) REFERENCES ab_tests (test_id)
);
CREATE TABLE ab_looks (
	test_id TEXT NOT NULL, 
	look INTEGER NOT NULL, 
	at BIGINT NOT NULL, 
	fraction FLOAT NOT NULL, 
	alpha FLOAT NOT NULL, 
	significant TEXT NOT NULL, 
	p_values TEXT NOT NULL, 
	guardrails TEXT NOT NULL, 
	PRIMARY KEY (test_id, look), 
	FOREIGN KEY(test_id) REFERENCES ab_tests (test_id)
);
CREATE TABLE ab_parts (
	part TEXT NOT NULL, 
	test_id TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	run BIGINT NOT NULL, 
	first_key BIGINT NOT NULL, 
	last_key BIGINT NOT NULL, 
	entries BIGINT NOT NULL, 
	keys BLOB NOT NULL, 
	rest BLOB NOT NULL, 
	PRIMARY KEY (part), 
	FOREIGN KEY(test_id) REFERENCES ab_tests (test_id)
);
CREATE TABLE ab_rounds (
	test_id TEXT NOT NULL, 
	round INTEGER NOT NULL, 
	shares TEXT NOT NULL, 
	assigned BIGINT NOT NULL, 
	started_at BIGINT NOT NULL, 
	PRIMARY KEY (test_id, round), 
	FOREIGN KEY(test_id) REFERENCES ab_tests (test_id)
);
CREATE TABLE ab_sources (
	test_id TEXT NOT NULL, 
	variant TEXT NOT NULL, 
	source TEXT NOT NULL, 
	generation BIGINT NOT NULL, 
	requests BIGINT NOT NULL, 
	errors BIGINT NOT NULL, 
	latency TEXT NOT NULL, 
	PRIMARY KEY (test_id, variant, source, generation), 
	FOREIGN KEY(test_id) REFERENCES ab_tests (test_id)
);
CREATE TABLE ab_tests (
	test_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	description TEXT NOT NULL, 
	strategy TEXT NOT NULL, 
	status TEXT NOT NULL, 
	created_by TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	started_at BIGINT, 
	ended_at BIGINT, 
	exclusive_group TEXT NOT NULL, 
	group_start FLOAT NOT NULL, 
	winner TEXT NOT NULL, 
	conclusion TEXT NOT NULL, 
	"plan" TEXT NOT NULL, 
	PRIMARY KEY (test_id)
);
CREATE TABLE access_failures (
	"key" TEXT NOT NULL, 
	count INTEGER NOT NULL, 
	at BIGINT NOT NULL, 
	PRIMARY KEY ("key")
);
CREATE TABLE access_grants (
	folded TEXT NOT NULL, 
	role TEXT NOT NULL, 
	project TEXT NOT NULL, 
	issuer TEXT NOT NULL, 
	granted_by TEXT NOT NULL, 
	granted_at BIGINT NOT NULL, 
	PRIMARY KEY (folded, role, project, issuer), 
	FOREIGN KEY(folded) REFERENCES access_subjects (folded)
);
CREATE TABLE access_objects (
	kind TEXT NOT NULL, 
	name TEXT NOT NULL, 
	project TEXT NOT NULL, 
	placed_at BIGINT NOT NULL, 
	PRIMARY KEY (kind, name)
);
CREATE TABLE access_subjects (
	folded TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	issuer TEXT NOT NULL, 
	password TEXT, 
	created_by TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	disabled_at BIGINT, 
	PRIMARY KEY (folded)
);
CREATE TABLE access_tokens (
	token_id TEXT NOT NULL, 
	token_hash TEXT NOT NULL, 
	folded TEXT NOT NULL, 
	scopes TEXT NOT NULL, 
	project TEXT NOT NULL, 
	created_by TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	expires_at BIGINT NOT NULL, 
	revoked_at BIGINT, 
	last_used_at BIGINT, 
	PRIMARY KEY (token_id), 
	UNIQUE (token_hash), 
	FOREIGN KEY(folded) REFERENCES access_subjects (folded)
);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0014');
CREATE TABLE artifact_holds (
	digest TEXT NOT NULL, 
	holder TEXT NOT NULL, 
	PRIMARY KEY (digest, holder)
);
CREATE TABLE artifact_members (
	digest TEXT NOT NULL, 
	path TEXT NOT NULL, 
	member_digest TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	PRIMARY KEY (digest, path)
);
CREATE TABLE artifact_release_approvals (
	release_id TEXT NOT NULL, 
	person TEXT NOT NULL, 
	approver TEXT NOT NULL, 
	comment TEXT NOT NULL, 
	approved_at BIGINT NOT NULL, 
	PRIMARY KEY (release_id, person)
);
CREATE TABLE artifact_releases (
	release_id TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	requested_by TEXT NOT NULL, 
	justification TEXT NOT NULL, 
	status TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	decided_at BIGINT, 
	PRIMARY KEY (release_id)
);
CREATE TABLE artifact_signatures (
	digest TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	bundle TEXT NOT NULL, 
	method TEXT NOT NULL, 
	signed_by TEXT NOT NULL, 
	signed_at BIGINT NOT NULL, 
	PRIMARY KEY (digest, key_id)
);
CREATE TABLE artifact_upload_parts (
	upload_id TEXT NOT NULL, 
	start BIGINT NOT NULL, 
	size BIGINT NOT NULL, 
	blob TEXT NOT NULL, 
	PRIMARY KEY (upload_id, start)
);
CREATE TABLE artifact_uploads (
	upload_id TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	name TEXT NOT NULL, 
	created_by TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	touched_at BIGINT NOT NULL, 
	PRIMARY KEY (upload_id)
);
CREATE TABLE artifacts (
	digest TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	format TEXT NOT NULL, 
	name TEXT NOT NULL, 
	admission TEXT NOT NULL, 
	findings TEXT NOT NULL, 
	rules_version INTEGER NOT NULL, 
	created_by TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	touched_at BIGINT NOT NULL, 
	PRIMARY KEY (digest)
);
CREATE TABLE audit_blocks (
	block INTEGER NOT NULL, 
	hashes BLOB NOT NULL, 
	PRIMARY KEY (block)
);
CREATE TABLE audit_checkpoints (
	size INTEGER NOT NULL, 
	note TEXT NOT NULL, 
	PRIMARY KEY (size)
);
CREATE TABLE audit_expired (
	position INTEGER NOT NULL, 
	expired_by TEXT NOT NULL, 
	PRIMARY KEY (position)
);
CREATE TABLE audit_holds (
	hold_id TEXT NOT NULL, 
	resource_type TEXT NOT NULL, 
	resource_id TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	placed_by TEXT NOT NULL, 
	placed_at BIGINT NOT NULL, 
	PRIMARY KEY (hold_id)
);
CREATE TABLE audit_leaves (
	leaf_index INTEGER NOT NULL, 
	position BIGINT NOT NULL, 
	count BIGINT NOT NULL, 
	integrated_at BIGINT NOT NULL, 
	earliest BIGINT NOT NULL, 
	latest BIGINT NOT NULL, 
	PRIMARY KEY (leaf_index), 
	UNIQUE (position)
);
CREATE TABLE audit_payloads (
	position INTEGER NOT NULL, 
	key_id TEXT NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (position)
);
CREATE TABLE audit_witnesses (
	target TEXT NOT NULL, 
	within BIGINT NOT NULL, 
	added_by TEXT NOT NULL, 
	copied_size BIGINT NOT NULL, 
	copied_at BIGINT NOT NULL, 
	failures BIGINT NOT NULL, 
	tried_at BIGINT NOT NULL, 
	PRIMARY KEY (target)
);
CREATE TABLE break_glass_moves (
	break_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	canonical TEXT NOT NULL, 
	version TEXT NOT NULL, 
	from_stage TEXT NOT NULL, 
	target_stage TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	broken_by TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	incident TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	status TEXT NOT NULL, 
	reviewer TEXT NOT NULL, 
	verdict TEXT NOT NULL, 
	comment TEXT NOT NULL, 
	reviewed_at BIGINT, 
	PRIMARY KEY (break_id)
);
CREATE TABLE deployment_generations (
	endpoint TEXT NOT NULL, 
	generation BIGINT NOT NULL, 
	PRIMARY KEY (endpoint)
);
CREATE TABLE deployment_history (
	position INTEGER NOT NULL, 
	deployment_id TEXT NOT NULL, 
	at BIGINT NOT NULL, 
	actor TEXT NOT NULL, 
	what TEXT NOT NULL, 
	step INTEGER NOT NULL, 
	share FLOAT NOT NULL, 
	generation BIGINT NOT NULL, 
	reasons TEXT NOT NULL, 
	measurements TEXT NOT NULL, 
	PRIMARY KEY (position), 
	FOREIGN KEY(deployment_id) REFERENCES deployments (deployment_id)
);
CREATE TABLE deployment_looks (
	deployment_id TEXT NOT NULL, 
	controller TEXT NOT NULL, 
	lease_until BIGINT NOT NULL, 
	at BIGINT NOT NULL, 
	seen TEXT NOT NULL, 
	PRIMARY KEY (deployment_id), 
	FOREIGN KEY(deployment_id) REFERENCES deployments (deployment_id)
);
CREATE TABLE deployments (
	deployment_id TEXT NOT NULL, 
	source TEXT NOT NULL, 
	endpoint TEXT NOT NULL, 
	model_name TEXT NOT NULL, 
	model_version TEXT NOT NULL, 
	baseline TEXT NOT NULL, 
	strategy TEXT NOT NULL, 
	status TEXT NOT NULL, 
	step INTEGER NOT NULL, 
	generation BIGINT NOT NULL, 
	step_started_at BIGINT NOT NULL, 
	created_by TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	updated_at BIGINT NOT NULL, 
	reason TEXT NOT NULL, 
	"plan" TEXT NOT NULL, 
	state TEXT NOT NULL, 
	PRIMARY KEY (deployment_id)
);
CREATE TABLE event_cursors (
	reader TEXT NOT NULL, 
	position BIGINT NOT NULL, 
	PRIMARY KEY (reader)
);
CREATE TABLE events (
	position INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	event_id TEXT NOT NULL, 
	event_type TEXT NOT NULL, 
	severity TEXT NOT NULL, 
	actor TEXT NOT NULL, 
	resource_type TEXT NOT NULL, 
	resource_id TEXT NOT NULL, 
	occurred_at BIGINT NOT NULL, 
	details TEXT NOT NULL, 
	UNIQUE (event_id)
);
CREATE TABLE experiment_tags (
	experiment_id BIGINT NOT NULL, 
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (experiment_id, "key"), 
	FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id)
);
CREATE TABLE experiments (
	experiment_id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	artifact_location TEXT NOT NULL, 
	lifecycle_stage TEXT NOT NULL, 
	creation_time BIGINT NOT NULL, 
	last_update_time BIGINT NOT NULL, 
	PRIMARY KEY (experiment_id), 
	UNIQUE (name)
);
INSERT INTO "experiments" VALUES(0,'Default','mlflow-artifacts:/0','active',1767225600000,1767225600000);
CREATE TABLE feature_catalogue (
	identity TEXT NOT NULL, 
	generation BIGINT NOT NULL, 
	PRIMARY KEY (identity)
);
CREATE TABLE feature_groups (
	name TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	definition TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	created_by TEXT NOT NULL, 
	PRIMARY KEY (name, version)
);
CREATE TABLE feature_layouts (
	layout_id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	entity_type TEXT NOT NULL, 
	features TEXT NOT NULL, 
	UNIQUE (entity_type, features)
);
CREATE TABLE feature_online (
	"view" TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	event BIGINT NOT NULL, 
	stamp BLOB NOT NULL, 
	packed BLOB NOT NULL, 
	PRIMARY KEY ("view", "key")
);
CREATE TABLE feature_segments (
	segment_id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	layout_id BIGINT NOT NULL, 
	blob TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	rows BIGINT NOT NULL, 
	first_event BIGINT NOT NULL, 
	last_event BIGINT NOT NULL, 
	written BIGINT NOT NULL, 
	created_at BIGINT NOT NULL, 
	retired_at BIGINT, 
	FOREIGN KEY(layout_id) REFERENCES feature_layouts (layout_id), 
	UNIQUE (blob)
);
CREATE TABLE features (
	entity_type TEXT NOT NULL, 
	name TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	definition TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	created_by TEXT NOT NULL, 
	PRIMARY KEY (entity_type, name, version)
);
CREATE TABLE governance_attestations (
	position INTEGER NOT NULL, 
	model TEXT NOT NULL, 
	framework TEXT NOT NULL, 
	control TEXT NOT NULL, 
	says TEXT NOT NULL, 
	statement TEXT NOT NULL, 
	attested_by TEXT NOT NULL, 
	attested_at BIGINT NOT NULL, 
	expires_at BIGINT, 
	event_id TEXT NOT NULL, 
	PRIMARY KEY (position)
);
CREATE TABLE governance_bias (
	position INTEGER NOT NULL, 
	report_id TEXT NOT NULL, 
	model TEXT NOT NULL, 
	assessed_at BIGINT NOT NULL, 
	report TEXT NOT NULL, 
	PRIMARY KEY (position), 
	UNIQUE (report_id)
);
CREATE TABLE governance_compliance (
	position INTEGER NOT NULL, 
	assessment_id TEXT NOT NULL, 
	model TEXT NOT NULL, 
	framework TEXT NOT NULL, 
	assessed_at BIGINT NOT NULL, 
	report TEXT NOT NULL, 
	PRIMARY KEY (position), 
	UNIQUE (assessment_id)
);
CREATE TABLE governance_edges (
	source TEXT NOT NULL, 
	target TEXT NOT NULL, 
	relation TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	PRIMARY KEY (source, target, relation)
);
CREATE TABLE governance_nodes (
	position INTEGER NOT NULL, 
	node_id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	name TEXT NOT NULL, 
	version TEXT NOT NULL, 
	details TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	PRIMARY KEY (position), 
	UNIQUE (node_id)
);
CREATE TABLE leases (
	name TEXT NOT NULL, 
	holder TEXT NOT NULL, 
	expires_at BIGINT NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE logged_model_metrics (
	model BIGINT NOT NULL, 
	"key" TEXT NOT NULL, 
	timestamp BIGINT NOT NULL, 
	step BIGINT NOT NULL, 
	run_id TEXT NOT NULL, 
	value FLOAT NOT NULL, 
	is_nan INTEGER NOT NULL, 
	dataset_name TEXT, 
	dataset_digest TEXT, 
	PRIMARY KEY (model, "key", timestamp, step, run_id), 
	FOREIGN KEY(model) REFERENCES logged_models (number)
)
 WITHOUT ROWID

;
CREATE TABLE logged_model_params (
	model BIGINT NOT NULL, 
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (model, "key"), 
	FOREIGN KEY(model) REFERENCES logged_models (number)
)
 WITHOUT ROWID

;
CREATE TABLE logged_model_tags (
	model BIGINT NOT NULL, 
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (model, "key"), 
	FOREIGN KEY(model) REFERENCES logged_models (number)
)
 WITHOUT ROWID

;
CREATE TABLE logged_models (
	number INTEGER NOT NULL, 
	model_id TEXT NOT NULL, 
	experiment_id BIGINT NOT NULL, 
	name TEXT NOT NULL, 
	source_run_id TEXT, 
	model_type TEXT, 
	status TEXT NOT NULL, 
	lifecycle_stage TEXT NOT NULL, 
	artifact_location TEXT NOT NULL, 
	creation_time BIGINT NOT NULL, 
	last_update_time BIGINT NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (model_id), 
	FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id)
);
CREATE TABLE loose_blobs (
	blob TEXT NOT NULL, 
	seen_at BIGINT NOT NULL, 
	PRIMARY KEY (blob)
);
CREATE TABLE marketplace_listings (
	listing_id TEXT NOT NULL, 
	model TEXT NOT NULL, 
	canonical TEXT NOT NULL, 
	version TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	project TEXT NOT NULL, 
	summary TEXT NOT NULL, 
	card TEXT NOT NULL, 
	licence TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	visibility TEXT NOT NULL, 
	status TEXT NOT NULL, 
	published_by TEXT NOT NULL, 
	published_at BIGINT NOT NULL, 
	withdrawn_at BIGINT, 
	withdrawn_because TEXT NOT NULL, 
	words TEXT NOT NULL, 
	fetches BIGINT NOT NULL, 
	stars BIGINT NOT NULL, 
	ratings BIGINT NOT NULL, 
	PRIMARY KEY (listing_id)
);
CREATE TABLE marketplace_publishers (
	name TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	public_key TEXT NOT NULL, 
	trusted_by TEXT NOT NULL, 
	trusted_at BIGINT NOT NULL, 
	PRIMARY KEY (name), 
	UNIQUE (key_id)
);
CREATE TABLE marketplace_ratings (
	listing_id TEXT NOT NULL, 
	person TEXT NOT NULL, 
	rated_by TEXT NOT NULL, 
	stars INTEGER NOT NULL, 
	comment TEXT NOT NULL, 
	rated_at BIGINT NOT NULL, 
	PRIMARY KEY (listing_id, person), 
	FOREIGN KEY(listing_id) REFERENCES marketplace_listings (listing_id)
);
CREATE TABLE marketplace_requests (
	request_id TEXT NOT NULL, 
	listing_id TEXT NOT NULL, 
	person TEXT NOT NULL, 
	requested_by TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	requested_at BIGINT NOT NULL, 
	status TEXT NOT NULL, 
	decided_by TEXT NOT NULL, 
	decided_at BIGINT, 
	comment TEXT NOT NULL, 
	expires_at BIGINT, 
	PRIMARY KEY (request_id), 
	FOREIGN KEY(listing_id) REFERENCES marketplace_listings (listing_id)
);
CREATE TABLE model_aliases (
	name TEXT NOT NULL, 
	alias TEXT NOT NULL, 
	canonical TEXT NOT NULL, 
	PRIMARY KEY (name, alias)
);
CREATE TABLE model_metrics (
	name TEXT NOT NULL, 
	canonical TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	value FLOAT NOT NULL, 
	PRIMARY KEY (name, canonical, "key")
)
 WITHOUT ROWID

;
CREATE TABLE model_parameters (
	name TEXT NOT NULL, 
	canonical TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	head TEXT NOT NULL, 
	number FLOAT, 
	PRIMARY KEY (name, canonical, "key")
)
 WITHOUT ROWID

;
CREATE TABLE model_renames (
	name TEXT NOT NULL, 
	former TEXT NOT NULL, 
	position BIGINT NOT NULL, 
	PRIMARY KEY (name, former, position)
);
CREATE TABLE model_scores (
	name TEXT NOT NULL, 
	canonical TEXT NOT NULL, 
	dataset TEXT NOT NULL, 
	metric TEXT NOT NULL, 
	n BIGINT NOT NULL, 
	mean FLOAT NOT NULL, 
	rows_digest TEXT NOT NULL, 
	packed BLOB NOT NULL, 
	created_by TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	PRIMARY KEY (name, canonical, dataset, metric)
);
CREATE TABLE model_tags (
	name TEXT NOT NULL, 
	canonical TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	value TEXT, 
	head TEXT, 
	PRIMARY KEY (name, canonical, "key")
)
 WITHOUT ROWID

;
CREATE TABLE model_versions (
	name TEXT NOT NULL, 
	canonical TEXT NOT NULL, 
	version TEXT NOT NULL, 
	number BIGINT NOT NULL, 
	sort_key TEXT NOT NULL, 
	prerelease INTEGER NOT NULL, 
	framework TEXT NOT NULL, 
	stage TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	created_by TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	updated_at BIGINT NOT NULL, 
	description TEXT NOT NULL, 
	changelog TEXT NOT NULL, 
	metrics TEXT NOT NULL, 
	parameters TEXT NOT NULL, 
	trained_by TEXT NOT NULL, 
	training_data TEXT NOT NULL, 
	code_version TEXT NOT NULL, 
	repository TEXT NOT NULL, 
	commit_id TEXT NOT NULL, 
	dirty INTEGER NOT NULL, 
	data_digest TEXT NOT NULL, 
	lock_digest TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	source TEXT NOT NULL, 
	parent TEXT NOT NULL, 
	signature TEXT, 
	example TEXT, 
	environment TEXT NOT NULL, 
	metadata TEXT NOT NULL, 
	PRIMARY KEY (name, canonical)
);
CREATE TABLE model_words (
	name TEXT NOT NULL, 
	canonical TEXT NOT NULL, 
	word TEXT NOT NULL, 
	PRIMARY KEY (name, canonical, word)
)
 WITHOUT ROWID

;
CREATE TABLE monitor_checks (
	check_id INTEGER NOT NULL, 
	model TEXT NOT NULL, 
	at BIGINT NOT NULL, 
	row_count BIGINT NOT NULL, 
	alert_count INTEGER NOT NULL, 
	alerts TEXT NOT NULL, 
	PRIMARY KEY (check_id)
);
CREATE TABLE monitor_minutes (
	model TEXT NOT NULL, 
	minute BIGINT NOT NULL, 
	tally TEXT NOT NULL, 
	PRIMARY KEY (model, minute)
);
CREATE TABLE monitor_predictions (
	model TEXT NOT NULL, 
	request_id TEXT NOT NULL, 
	at BIGINT NOT NULL, 
	prediction TEXT NOT NULL, 
	probability FLOAT, 
	features TEXT NOT NULL, 
	outcome TEXT, 
	latency_ms FLOAT, 
	failed INTEGER NOT NULL, 
	PRIMARY KEY (model, request_id)
);
CREATE TABLE monitors (
	model TEXT NOT NULL, 
	sensitivity FLOAT NOT NULL, 
	set_at BIGINT NOT NULL, 
	profile BLOB NOT NULL, 
	tally TEXT NOT NULL, 
	watch TEXT, 
	PRIMARY KEY (model)
);
CREATE TABLE pipeline_metrics (
	run_id TEXT NOT NULL, 
	metric TEXT NOT NULL, 
	value FLOAT NOT NULL, 
	PRIMARY KEY (run_id, metric), 
	FOREIGN KEY(run_id) REFERENCES pipeline_runs (run_id)
);
CREATE TABLE pipeline_runs (
	run_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	status TEXT NOT NULL, 
	created_by TEXT NOT NULL, 
	started_at BIGINT NOT NULL, 
	completed_at BIGINT, 
	data_source TEXT NOT NULL, 
	data_digest TEXT NOT NULL, 
	model_type TEXT NOT NULL, 
	model_class TEXT NOT NULL, 
	config TEXT NOT NULL, 
	best_params TEXT NOT NULL, 
	artifacts TEXT NOT NULL, 
	failed_stage TEXT NOT NULL, 
	error TEXT NOT NULL, 
	PRIMARY KEY (run_id)
);
CREATE TABLE promotion_approvals (
	request_id TEXT NOT NULL, 
	person TEXT NOT NULL, 
	approver TEXT NOT NULL, 
	comment TEXT NOT NULL, 
	approved_at BIGINT NOT NULL, 
	PRIMARY KEY (request_id, person)
);
CREATE TABLE promotion_comments (
	request_id TEXT NOT NULL, 
	position BIGINT NOT NULL, 
	author TEXT NOT NULL, 
	text TEXT NOT NULL, 
	at BIGINT NOT NULL, 
	PRIMARY KEY (request_id, position)
);
CREATE TABLE promotion_policies (
	policy_id TEXT NOT NULL, 
	scope TEXT NOT NULL, 
	target_stage TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	status TEXT NOT NULL, 
	asked TEXT NOT NULL, 
	proposed_by TEXT NOT NULL, 
	proposed_at BIGINT NOT NULL, 
	justification TEXT NOT NULL, 
	decided_by TEXT NOT NULL, 
	decided_at BIGINT, 
	reason TEXT NOT NULL, 
	agreed_by TEXT NOT NULL, 
	PRIMARY KEY (policy_id)
);
CREATE TABLE promotion_requests (
	request_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	canonical TEXT NOT NULL, 
	version TEXT NOT NULL, 
	from_stage TEXT NOT NULL, 
	target_stage TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	evidence TEXT NOT NULL, 
	requested_by TEXT NOT NULL, 
	justification TEXT NOT NULL, 
	reviewers TEXT NOT NULL, 
	quorum INTEGER NOT NULL, 
	status TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	decided_at BIGINT, 
	reason TEXT NOT NULL, 
	policy_id TEXT NOT NULL, 
	policy_version INTEGER NOT NULL, 
	roles TEXT NOT NULL, 
	expires_at BIGINT, 
	requirements TEXT NOT NULL, 
	PRIMARY KEY (request_id)
);
CREATE TABLE quiet_events (
	first_position BIGINT NOT NULL, 
	last_position BIGINT NOT NULL, 
	PRIMARY KEY (first_position)
);
CREATE TABLE registered_models (
	name TEXT NOT NULL, 
	project TEXT NOT NULL, 
	description TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	licence TEXT NOT NULL, 
	last_number BIGINT NOT NULL, 
	created_at BIGINT NOT NULL, 
	updated_at BIGINT NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE run_blobs (
	digest TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	touched_at BIGINT NOT NULL, 
	PRIMARY KEY (digest)
);
CREATE TABLE run_datasets (
	number INTEGER NOT NULL, 
	experiment_id BIGINT NOT NULL, 
	name TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	source_type TEXT NOT NULL, 
	source TEXT NOT NULL, 
	schema TEXT, 
	profile TEXT, 
	PRIMARY KEY (number), 
	UNIQUE (experiment_id, name, digest), 
	FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id)
);
CREATE TABLE run_files (
	folder TEXT NOT NULL, 
	name TEXT NOT NULL, 
	digest TEXT, 
	size BIGINT, 
	PRIMARY KEY (folder, name)
)
 WITHOUT ROWID

;
CREATE TABLE run_inputs (
	run BIGINT NOT NULL, 
	dataset BIGINT NOT NULL, 
	tags TEXT NOT NULL, 
	context TEXT, 
	PRIMARY KEY (run, dataset), 
	FOREIGN KEY(run) REFERENCES runs (number), 
	FOREIGN KEY(dataset) REFERENCES run_datasets (number)
)
 WITHOUT ROWID

;
CREATE TABLE run_latest_metrics (
	run BIGINT NOT NULL, 
	"key" TEXT NOT NULL, 
	timestamp BIGINT NOT NULL, 
	step BIGINT NOT NULL, 
	value FLOAT NOT NULL, 
	is_nan INTEGER NOT NULL, 
	PRIMARY KEY (run, "key")
)
 WITHOUT ROWID

;
CREATE TABLE run_metrics (
	run BIGINT NOT NULL, 
	"key" TEXT NOT NULL, 
	timestamp BIGINT NOT NULL, 
	step BIGINT NOT NULL, 
	value FLOAT NOT NULL, 
	is_nan INTEGER NOT NULL, 
	PRIMARY KEY (run, "key", timestamp, step, value, is_nan)
)
 WITHOUT ROWID

;
CREATE TABLE run_models (
	run BIGINT NOT NULL, 
	direction TEXT NOT NULL, 
	model_id TEXT NOT NULL, 
	step BIGINT NOT NULL, 
	PRIMARY KEY (run, direction, model_id), 
	FOREIGN KEY(run) REFERENCES runs (number)
)
 WITHOUT ROWID

;
CREATE TABLE run_params (
	run BIGINT NOT NULL, 
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (run, "key"), 
	FOREIGN KEY(run) REFERENCES runs (number)
)
 WITHOUT ROWID

;
CREATE TABLE run_tags (
	run BIGINT NOT NULL, 
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (run, "key"), 
	FOREIGN KEY(run) REFERENCES runs (number)
)
 WITHOUT ROWID

;
CREATE TABLE run_upload_parts (
	upload_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	digest TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	PRIMARY KEY (upload_id, number), 
	FOREIGN KEY(upload_id) REFERENCES run_uploads (upload_id)
);
CREATE TABLE run_uploads (
	upload_id TEXT NOT NULL, 
	path TEXT NOT NULL, 
	started_at BIGINT NOT NULL, 
	PRIMARY KEY (upload_id)
);
CREATE TABLE runs (
	number INTEGER NOT NULL, 
	run_id TEXT NOT NULL, 
	experiment_id BIGINT NOT NULL, 
	name TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	status TEXT NOT NULL, 
	start_time BIGINT NOT NULL, 
	end_time BIGINT, 
	lifecycle_stage TEXT NOT NULL, 
	artifact_uri TEXT NOT NULL, 
	deleted_at BIGINT, 
	PRIMARY KEY (number), 
	UNIQUE (run_id), 
	FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id)
);
CREATE TABLE serving_endpoints (
	endpoint TEXT NOT NULL, 
	generation BIGINT NOT NULL, 
	traffic TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	updated_at BIGINT NOT NULL, 
	PRIMARY KEY (endpoint)
);
CREATE TABLE serving_experiments (
	experiment_id TEXT NOT NULL, 
	control TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	PRIMARY KEY (experiment_id)
);
CREATE TABLE serving_fleet (
	revision INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	endpoint TEXT NOT NULL, 
	generation BIGINT NOT NULL, 
	source TEXT NOT NULL, 
	part INTEGER NOT NULL, 
	body BLOB NOT NULL
);
CREATE TABLE serving_models (
	model TEXT NOT NULL, 
	version TEXT NOT NULL, 
	path TEXT NOT NULL, 
	framework TEXT NOT NULL, 
	compiled TEXT NOT NULL, 
	signature TEXT NOT NULL, 
	uses TEXT NOT NULL, 
	code TEXT NOT NULL, 
	installed_at BIGINT NOT NULL, 
	PRIMARY KEY (model, version)
);
CREATE TABLE serving_outcomes (
	endpoint TEXT NOT NULL, 
	request_id TEXT NOT NULL, 
	row_number BIGINT NOT NULL, 
	value TEXT NOT NULL, 
	known_at BIGINT NOT NULL, 
	recorded_at BIGINT NOT NULL, 
	told INTEGER NOT NULL, 
	PRIMARY KEY (endpoint, request_id, row_number)
);
CREATE TABLE serving_settings (
	endpoint TEXT NOT NULL, 
	config TEXT NOT NULL, 
	PRIMARY KEY (endpoint)
);
CREATE TABLE serving_trips (
	rollout_id TEXT NOT NULL, 
	step BIGINT NOT NULL, 
	endpoint TEXT NOT NULL, 
	trip TEXT NOT NULL, 
	recorded_at BIGINT NOT NULL, 
	PRIMARY KEY (rollout_id, step)
);
CREATE TABLE shadow_deployments (
	shadow_id TEXT NOT NULL, 
	primary_model TEXT NOT NULL, 
	shadow_model TEXT NOT NULL, 
	traffic_percentage FLOAT NOT NULL, 
	created_by TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	counts TEXT NOT NULL, 
	PRIMARY KEY (shadow_id)
);
CREATE TABLE webhook_deliveries (
	sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	delivery_id TEXT NOT NULL, 
	webhook_id TEXT NOT NULL, 
	position BIGINT NOT NULL, 
	event TEXT NOT NULL, 
	part INTEGER NOT NULL, 
	status TEXT NOT NULL, 
	attempts INTEGER NOT NULL, 
	created_at BIGINT NOT NULL, 
	next_attempt_at BIGINT NOT NULL, 
	ended_at BIGINT, 
	response_status INTEGER, 
	error TEXT NOT NULL, 
	UNIQUE (delivery_id)
);
CREATE TABLE webhooks (
	webhook_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	url TEXT NOT NULL, 
	events TEXT NOT NULL, 
	mlflow INTEGER NOT NULL, 
	secret TEXT NOT NULL, 
	description TEXT NOT NULL, 
	status TEXT NOT NULL, 
	created_by TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	updated_at BIGINT NOT NULL, 
	seen BIGINT NOT NULL, 
	failures INTEGER NOT NULL, 
	last_error TEXT NOT NULL, 
	PRIMARY KEY (webhook_id)
);
CREATE INDEX events_by_type ON events (event_type, position);
CREATE INDEX events_by_resource ON events (resource_type, resource_id, position);
CREATE INDEX events_by_actor ON events (actor, position);
CREATE INDEX events_by_severity ON events (severity, position) WHERE severity <> 'info';
CREATE INDEX audit_payloads_by_key ON audit_payloads (key_id, position);
CREATE INDEX audit_holds_by_resource ON audit_holds (resource_type, resource_id);
CREATE INDEX artifacts_by_touch ON artifacts (touched_at);
CREATE INDEX artifact_members_by_blob ON artifact_members (member_digest);
CREATE UNIQUE INDEX artifact_releases_one_live ON artifact_releases (digest) WHERE status IN ('open', 'approved');
CREATE INDEX artifact_releases_by_digest ON artifact_releases (digest, created_at);
CREATE INDEX artifact_uploads_by_touch ON artifact_uploads (touched_at);
CREATE INDEX registered_models_by_project ON registered_models (project, name);
CREATE INDEX model_versions_in_order ON model_versions (name, sort_key, canonical);
CREATE INDEX model_versions_newest ON model_versions (name, prerelease, sort_key);
CREATE UNIQUE INDEX model_versions_by_number ON model_versions (name, number);
CREATE INDEX model_versions_by_stage ON model_versions (stage, name, sort_key);
CREATE INDEX model_versions_by_number_in_stage ON model_versions (name, stage, number);
CREATE INDEX model_versions_by_created_at ON model_versions (created_at, name, number);
CREATE INDEX model_versions_of_name_by_created_at ON model_versions (name, created_at, number);
CREATE INDEX model_versions_by_updated_at ON model_versions (updated_at, name, number);
CREATE INDEX model_versions_of_name_by_updated_at ON model_versions (name, updated_at, number);
CREATE INDEX model_versions_newest_first ON model_versions (updated_at DESC, name, number DESC);
CREATE INDEX model_versions_by_digest ON model_versions (digest);
CREATE INDEX model_versions_by_run ON model_versions (run_id);
CREATE INDEX model_versions_by_parent ON model_versions (parent);
CREATE INDEX model_aliases_by_version ON model_aliases (name, canonical);
CREATE INDEX model_aliases_by_alias ON model_aliases (alias, name, canonical);
CREATE INDEX model_tags_by_key ON model_tags ("key", head, name, canonical);
CREATE INDEX model_metrics_by_key ON model_metrics ("key", value, name, canonical);
CREATE INDEX model_parameters_by_key ON model_parameters ("key", head, name, canonical);
CREATE INDEX model_parameters_by_number ON model_parameters ("key", number, name, canonical);
CREATE INDEX model_words_by_word ON model_words (word, name, canonical);
CREATE UNIQUE INDEX promotion_requests_one_open ON promotion_requests (name, canonical) WHERE status = 'open';
CREATE INDEX promotion_requests_by_version ON promotion_requests (name, canonical, created_at);
CREATE INDEX promotion_requests_by_status ON promotion_requests (status, created_at);
CREATE INDEX promotion_requests_by_expiry ON promotion_requests (expires_at) WHERE status = 'open';
CREATE UNIQUE INDEX promotion_policies_in_order ON promotion_policies (scope, target_stage, version);
CREATE UNIQUE INDEX promotion_policies_one_active ON promotion_policies (scope, target_stage) WHERE status = 'active';
CREATE UNIQUE INDEX promotion_policies_one_proposed ON promotion_policies (scope, target_stage) WHERE status = 'proposed';
CREATE INDEX break_glass_moves_by_model ON break_glass_moves (name, created_at);
CREATE INDEX break_glass_moves_by_status ON break_glass_moves (status, created_at);
CREATE INDEX feature_segments_by_layout ON feature_segments (layout_id, written);
CREATE INDEX pipeline_runs_by_name ON pipeline_runs (name, started_at);
CREATE INDEX pipeline_metrics_by_value ON pipeline_metrics (metric, value);
CREATE INDEX serving_fleet_by_source ON serving_fleet (endpoint, generation, source, part);
CREATE INDEX serving_outcomes_by_time ON serving_outcomes (endpoint, recorded_at);
CREATE INDEX serving_outcomes_by_told ON serving_outcomes (endpoint, told, recorded_at);
CREATE INDEX deployments_by_endpoint ON deployments (endpoint, created_at);
CREATE UNIQUE INDEX deployments_one_live ON deployments (endpoint) WHERE status IN ('running', 'waiting', 'paused') AND source = 'live';
CREATE INDEX deployment_history_by_deployment ON deployment_history (deployment_id, position);
CREATE INDEX ab_tests_by_group ON ab_tests (exclusive_group, status);
CREATE INDEX ab_parts_by_owner ON ab_parts (test_id, owner);
CREATE INDEX monitor_predictions_by_time ON monitor_predictions (model, at);
CREATE INDEX monitor_checks_by_model ON monitor_checks (model, check_id);
CREATE INDEX governance_nodes_by_name ON governance_nodes (kind, name, position);
CREATE INDEX governance_edges_by_target ON governance_edges (target);
CREATE INDEX governance_bias_by_model ON governance_bias (model, position);
CREATE INDEX governance_attestations_by_model ON governance_attestations (model, framework, position);
CREATE INDEX governance_compliance_by_model ON governance_compliance (model, framework, position);
CREATE INDEX access_tokens_by_subject ON access_tokens (folded, created_at);
CREATE INDEX access_objects_by_project ON access_objects (project, kind, name);
CREATE INDEX access_failures_by_time ON access_failures (at);
CREATE INDEX runs_by_experiment ON runs (experiment_id, lifecycle_stage, start_time, run_id);
CREATE INDEX run_latest_metrics_by_value ON run_latest_metrics ("key", value, is_nan, run);
CREATE INDEX run_inputs_by_dataset ON run_inputs (dataset);
CREATE INDEX logged_models_by_experiment ON logged_models (experiment_id, lifecycle_stage, creation_time);
CREATE INDEX run_files_by_digest ON run_files (digest);
CREATE INDEX run_upload_parts_by_digest ON run_upload_parts (digest);
CREATE UNIQUE INDEX marketplace_one_listing ON marketplace_listings (model, canonical) WHERE status = 'listed';
CREATE INDEX marketplace_newest ON marketplace_listings (status, published_at, listing_id);
CREATE UNIQUE INDEX marketplace_one_open_request ON marketplace_requests (listing_id, person) WHERE status = 'open';
CREATE INDEX marketplace_requests_by_listing ON marketplace_requests (listing_id, person, requested_at);
CREATE INDEX webhooks_newest ON webhooks (created_at, webhook_id);
CREATE INDEX webhook_deliveries_in_order ON webhook_deliveries (webhook_id, status, sequence);
CREATE INDEX webhook_deliveries_ended ON webhook_deliveries (ended_at);
DELETE FROM "sqlite_sequence";
COMMIT;
