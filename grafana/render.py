"""Dashboards as Grafana's JSON, by Grafana's own schema (grafana-foundation-sdk, made for Grafana 11.6).

What a panel says stands in `grafana.panels`; how Grafana wants it said stands here. Newer Grafanas read the same files
and migrate them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as words
from grafana_foundation_sdk.models import dashboard as schema
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana.catalogue import DASHBOARDS
from grafana.panels import Dashboard, Panel, Place, Row, Variable, layout

TAG: Final = "argus"

_SOURCE: Final = schema.DataSourceRef(type_val="prometheus", uid="${datasource}")
_CLUSTER: Final = Variable("cluster", "Cluster", "ray_argus_build_info")


def files(docs: str | None = None) -> dict[str, str]:
    """Each dashboard's file name and content.

    Args:
        docs: address below which the folder `docs` can be read; panels then link to their runbook.
    """
    return {f"{one.uid}.json": text(one, docs) for one in DASHBOARDS}


def text(one: Dashboard, docs: str | None = None) -> str:
    """The JSON of one dashboard, the same for the same dashboard."""
    built = json.loads(JSONEncoder().encode(_dashboard(one, docs)))
    return json.dumps(built, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _dashboard(one: Dashboard, docs: str | None) -> schema.Dashboard:
    made = (
        dashboard.Dashboard(one.title)
        .uid(one.uid)
        .description(one.description)
        .tags([TAG])
        .readonly()
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(schema.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .link(
            dashboard.DashboardLink("Argus")
            .type(schema.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(False)
            .include_vars(True)
            .keep_time(True)
        )
    )
    for variable in (_CLUSTER, *one.variables):
        made = made.with_variable(_variable(variable))
    built = made.build()
    # Rows of the SDK nest their panels and place them by themselves; ours lie beside them, where `layout` puts them.
    built.panels = [
        _heading(number, what, place) if isinstance(what, Row) else _panel(number, what, place, docs)
        for number, (what, place) in enumerate(layout(one.rows), start=1)
    ]
    return built


def _variable(variable: Variable) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(_SOURCE)
        .query({"query": f"label_values({variable.series}, {variable.name})", "refId": variable.name})
        .refresh(schema.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(schema.VariableSort.ALPHABETICAL_ASC)
        .include_all(True)
        .all_value(".*")
        .multi(True)
        .current(schema.VariableOption(text="All", value="$__all", selected=True))
    )


def _heading(number: int, row: Row, place: Place) -> schema.RowPanel:
    return schema.RowPanel(title=row.title, id_val=number, collapsed=False, grid_pos=_position(place))


def _position(place: Place) -> schema.GridPos:
    return schema.GridPos(h=place.height, w=place.width, x=place.x, y=place.y)


def _panel(number: int, panel: Panel, place: Place, docs: str | None) -> schema.Panel:
    made = _BUILDERS[panel.kind](panel)
    made = (
        made.id(number)
        .title(panel.title)
        .description(description(panel))
        .datasource(_SOURCE)
        .grid_pos(_position(place))
        .unit(panel.unit)
        .thresholds(_thresholds(panel))
    )
    if panel.decimals is not None:
        made = made.decimals(panel.decimals)
    if panel.least is not None:
        made = made.min(panel.least)
    if panel.most is not None:
        made = made.max(panel.most)
    if panel.no_value is not None:
        made = made.no_value(panel.no_value)
    if panel.words is not None:
        made = made.mappings([_words(panel.words)])
    if panel.runbook is not None and docs is not None:
        address = f"{docs.rstrip('/')}/{panel.runbook.removeprefix('docs/')}"
        link = dashboard.DashboardLink("Runbook").type(schema.DashboardLinkType.LINK).url(address).target_blank(True)
        made = made.links([link])
    for reference, query in zip("ABCDEFGH", panel.queries, strict=False):
        asked = prometheus.Dataquery().ref_id(reference).datasource(_SOURCE).expr(query.expr)
        asked = asked.legend_format(query.legend or "__auto").range()
        made = made.with_target(asked.format(PromQueryFormat.HEATMAP) if panel.kind == "heatmap" else asked)
    built: schema.Panel = made.build()
    return built


def description(panel: Panel) -> str:
    """What a panel says of itself, with where to read more."""
    if panel.runbook is None:
        return panel.description
    file, _, heading = panel.runbook.partition("#")
    where = f"{file}, {heading.replace('-', ' ')}" if heading else file
    return f"{panel.description}\n\nRunbook: {where}"


def _lines(panel: Panel) -> Any:
    made = (
        timeseries.Panel()
        .line_width(1)
        .fill_opacity(25 if panel.stacked else 8)
        .show_points(words.VisibilityMode.NEVER)
        .tooltip(common.VizTooltipOptions().mode(words.TooltipDisplayMode.MULTI).sort(words.SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions()
            .display_mode(words.LegendDisplayMode.LIST)
            .placement(words.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    if panel.stacked:
        made = made.stacking(common.StackingConfig().mode(words.StackingMode.NORMAL))
    if panel.thresholds:
        made = made.thresholds_style(common.GraphThresholdsStyleConfig().mode(words.GraphThresholdsStyleMode.DASHED))
    return made


def _stat(panel: Panel) -> Any:
    return (
        stat.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(words.BigValueGraphMode.AREA)
        .color_mode(words.BigValueColorMode.VALUE if panel.thresholds else words.BigValueColorMode.NONE)
        .text_mode(words.BigValueTextMode.VALUE_AND_NAME)
    )


def _heatmap(panel: Panel) -> Any:
    return (
        heatmap.Panel()
        .calculate(False)
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
        .y_axis(heatmap.YAxisConfig().unit(panel.unit))
    )


_BUILDERS: Final = {"timeseries": _lines, "stat": _stat, "heatmap": _heatmap}


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    """The first step is what holds below all others."""
    steps = [schema.Threshold(value=None, color="green" if panel.thresholds else "text")]
    steps += [schema.Threshold(value=value, color=colour) for value, colour in panel.thresholds]
    return dashboard.ThresholdsConfig().mode(schema.ThresholdsMode.ABSOLUTE).steps(steps)


def _words(meanings: Mapping[float, str]) -> schema.ValueMap:
    results = {
        f"{value:g}": schema.ValueMappingResult(text=word, index=index)
        for index, (value, word) in enumerate(meanings.items())
    }
    return schema.ValueMap(options=results)
